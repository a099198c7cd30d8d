"""What several tests stand on: eight simulated devices, and a small folder of synthetic radiographs."""

import os
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

# Many tests compile the same programs, most of them in processes of their own.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # which is taken for eight, and computes in float32 to the last bit
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compiling is most of what the tests do, and takes a third of the time so. `make soak` computes as users do. The second
# flag is known to JAX 0.10 alone.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)

import jax
import pytest
from PIL import Image

from pneumojax import config as configs
from pneumojax.data import phantom
from pneumojax.data import splits as splitting
from pneumojax.data.readers import from_source
from pneumojax.data.sources import open_source
from pneumojax.errors import UserError
from pneumojax.kernels.build import build

jax.config.update("jax_num_cpu_devices", 8)

ROOT = Path(__file__).parent.parent
SIZE = 32  # pixels of the images that small runs see
COSTLY = ("alone", "finished", "undisturbed", "folded", "seeded", "comparison", "library", "way")


def pytest_sessionstart(session):
    """Builds the CPU kernels once, before all tests: else those before the first that builds them compute without."""
    if not hasattr(session.config, "workerinput"):
        with suppress(UserError):  # where there is no compiler, whose tests say so
            build()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Among several workers (`--dist loadgroup`), one runs all tests that share a costly fixture."""
    for item in items:
        for name in COSTLY:
            if name in item.fixturenames:
                item.add_marker(pytest.mark.xdist_group(name))
                break


def draw_folder(root: Path, split: str, normal: int, pneumonia: int, first: int = 0) -> None:
    """Writes synthetic radiographs as PNG into root/split/{NORMAL,PNEUMONIA}; an empty `split` leaves it out."""
    for label, (name, count) in enumerate((("NORMAL", normal), ("PNEUMONIA", pneumonia))):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, _ = phantom.render(seed=7, index=first + 1000 * label + i, label=label, size=40)
            Image.fromarray(image).save(folder / f"chest {i:03d}.png")


@pytest.fixture(scope="session")
def chests(tmp_path_factory) -> Path:
    """A folder with train (60 normal, 60 pneumonia) and test (20, 20)."""
    root = tmp_path_factory.mktemp("data") / "chests"
    draw_folder(root, "train", 60, 60)
    draw_folder(root, "test", 20, 20, first=500)
    return root


def pneumojax(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs the command line as a user would, from `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "pneumojax.main", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make a run small."""
    return ["--config.model.image_size=32", "--config.epochs=2", "--config.batch_size=12"]


SMALL = (
    "--config=m1", "--workdir=work", "--config.data.cache_dir=cache", "--config.model.image_size=32",
    "--config.epochs=4", "--config.batch_size=12",
)  # fmt: skip


@pytest.fixture(scope="session")
def finished(chests, tmp_path_factory) -> tuple[Path, str]:
    """The folder in which the run `SMALL` on `chests` left `work` and `cache`, to be copied; and what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    result = pneumojax(*SMALL, f"--data={chests}", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder, result.stdout


# What one process or several are asked for, once or again and again.
JOB = (
    "--config=m1", "--workdir=work", "--config.model.image_size=32", "--config.batch_size=12", "--config.epochs=2",
    "--config.checkpoint.steps=2", "--config.data.cache_dir=cache", "--config.optimizer.learning_rate=1e-6",
)  # fmt: skip


@pytest.fixture(scope="session")
def alone(chests, tmp_path_factory) -> Path:
    """The folder in which one process has done `JOB` on `chests`, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    result = pneumojax(*JOB, f"--data={chests}", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def small_config():
    config = configs.load("m1")
    config.model.image_size = SIZE
    config.epochs = 3
    config.batch_size = 16
    config.evaluation.batch_size = 16
    # Random, and compiled sooner than all that the recipe has.
    config.augment.update(dict.fromkeys(config.augment, 0.0) | {"contrast": 0.3})
    return config


@pytest.fixture
def config():
    return small_config()


@pytest.fixture(scope="session")
def splits(chests):
    source = open_source(str(chests))
    records, _ = splitting.for_training(source.records, splitting.Carving(val_fraction=0.2))
    return {name: from_source(source, name, members, SIZE) for name, members in records.items()}
