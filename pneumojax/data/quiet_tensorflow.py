"""The one door to TensorFlow and TFDS: late, for importing takes seconds; quiet; without accelerators."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pneumojax.errors import UserError

# TensorFlow reads them once, at its import. oneDNN's greeting heeds no log level, only its own switch, and the
# feed computes nothing that oneDNN would speed up. Without the last, TensorFlow imports Keras, which takes half as long
# again and is not needed; it is still there for who uses `tf.keras`.
_AT_IMPORT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "TF_USE_LEGACY_KERAS": "1"}

_NEEDED = {"tensorflow": "tensorflow", "tensorflow_datasets": "tensorflow-datasets", "array_record": "array-record"}
INSTALL = f"pip install {' '.join(_NEEDED.values())}"


def import_tensorflow() -> ModuleType:
    """TensorFlow, which will not touch the accelerators: they are JAX's."""
    with _environment(_AT_IMPORT), telling_what_is_missing():
        import tensorflow as tf
    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def import_tfds() -> ModuleType:
    """TFDS without its progress bars."""
    import_tensorflow()
    return import_tfds_to_read()


def import_tfds_to_read() -> ModuleType:
    """TFDS as it reads shards of arrays, for which it needs no TensorFlow."""
    with telling_what_is_missing():
        import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds


def installed() -> bool:
    """Whether there is all that it takes to write shards, to read them, and to feed from them."""
    return all(importlib.util.find_spec(name) for name in _NEEDED)


@contextmanager
def telling_what_is_missing() -> Iterator[None]:
    """Has a UserError where what is imported within is not installed."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{error.name} is needed for this and not installed: {INSTALL}") from error


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for a while; JAX reads some of the same names and must find its own."""
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
