"""Settings of the test process, and the fixtures that several folders share: eight simulated devices, small runs."""

import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

# Many tests compile the same programs, most of them in other processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads wait busily, and test processes share the cores
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # simulates eight devices, and computes in full float32
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compiling takes most of the tests' time, and a third as long this way. `make soak` compiles as users do. Only JAX 0.10
# knows the second flag.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)

import jax
import pytest
from support import JOB, SIZE, SMALL, draw_folder, pneumojax, small_config

from pneumojax.data import splits as splitting
from pneumojax.data.source import from_source
from pneumojax.data.sources import open_source
from pneumojax.models.kernels.build import build
from pneumojax.runtime.errors import UserError

jax.config.update("jax_num_cpu_devices", 8)

# Fixtures that take seconds: one worker runs all tests of each, see below.
COSTLY = ("alone", "finished", "undisturbed", "folded", "seeded", "comparison", "library", "way")


def pytest_sessionstart(session):
    """Build the CPU kernels once, before all tests: otherwise the first tests would compute without them."""
    if not hasattr(session.config, "workerinput"):
        with suppress(UserError):  # no compiler: the tests that need one say so
            build()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Let one of several workers (`--dist loadgroup`) run all tests that share a costly fixture."""
    for item in items:
        for name in COSTLY:
            if name in item.fixturenames:
                item.add_marker(pytest.mark.xdist_group(name))
                break


@pytest.fixture(scope="session")
def chests(tmp_path_factory) -> Path:
    """A folder with train (60 normal, 60 pneumonia) and test (20, 20)."""
    root = tmp_path_factory.mktemp("data") / "chests"
    draw_folder(root, "train", 60, 60)
    draw_folder(root, "test", 20, 20, first=500)
    return root


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make a run small."""
    return ["--config.model.image_size=32", "--config.epochs=2", "--config.batch_size=12"]


@pytest.fixture(scope="session")
def finished(chests, tmp_path_factory) -> tuple[Path, str]:
    """The folder where the run `SMALL` on `chests` left `work` and `cache`, to be copied; and what the run printed."""
    folder = tmp_path_factory.mktemp("finished")
    result = pneumojax(*SMALL, f"--data={chests}", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder, result.stdout


@pytest.fixture(scope="session")
def alone(chests, tmp_path_factory) -> Path:
    """The folder where one uninterrupted process ran `JOB` on `chests`."""
    folder = tmp_path_factory.mktemp("alone")
    result = pneumojax(*JOB, f"--data={chests}", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def config():
    return small_config()


@pytest.fixture(scope="session")
def splits(chests):
    source = open_source(str(chests))
    records, _ = splitting.for_training(source.records, splitting.Carving(val_fraction=0.2))
    return {name: from_source(source, name, members, SIZE) for name, members in records.items()}
