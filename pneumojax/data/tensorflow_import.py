"""Import TensorFlow and TFDS: late, because it takes seconds; silent; without accelerators."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pneumojax.runtime.errors import UserError

# TensorFlow reads them once, at its import. oneDNN's greeting ignores the log level and only its own switch silences
# it; the feed computes nothing that oneDNN would speed up. The last one keeps TensorFlow from importing Keras, which
# takes half as long again and is not needed; programs that use `tf.keras` still find it.
_AT_IMPORT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "TF_USE_LEGACY_KERAS": "1"}

_NEEDED = {"tensorflow": "tensorflow", "tensorflow_datasets": "tensorflow-datasets", "array_record": "array-record"}
INSTALL = f"pip install {' '.join(_NEEDED.values())}"


def import_tensorflow() -> ModuleType:
    """Import TensorFlow without accelerators, which belong to JAX."""
    with temporary_environment(_AT_IMPORT), explaining_missing_package():
        import tensorflow as tf
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def import_tfds() -> ModuleType:
    """Import TFDS and TensorFlow, without TFDS's progress bars."""
    import_tensorflow()
    return import_tfds_to_read()


def import_tfds_to_read() -> ModuleType:
    """Import TFDS without TensorFlow, which reading shards of arrays does not need."""
    with explaining_missing_package():
        import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds


def installed() -> bool:
    """Return whether all packages are installed that write shards, read them and feed from them."""
    return all(importlib.util.find_spec(name) for name in _NEEDED)


@contextmanager
def explaining_missing_package() -> Iterator[None]:
    """Raise UserError, with the command that installs it, if the block imports a package that is not installed."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"this needs {error.name}, which is not installed: {INSTALL}") from error


@contextmanager
def temporary_environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs, because JAX reads some of the same names."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
