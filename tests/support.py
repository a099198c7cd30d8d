"""What several tests share: small runs of the command line, and small folders of synthetic radiographs."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict
from PIL import Image

from pneumojax import modes
from pneumojax.data.sources import phantom
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_log, sharding
from pneumojax.runtime.errors import ExitStatus, UserError, one_line
from pneumojax.runtime.files import expanded
from pneumojax.workflows import run_config

ROOT = Path(__file__).parent.parent
SIZE = 32  # pixels of the images in small runs

# Fewer steps of integrated gradients, by which each evaluation explains its worst errors.
QUICK = "--config.explanation.steps=4"

# A run of four epochs, which the fixture `finished` trains once.
SMALL = (
    "--config=m1", "--workdir=work", "--config.data.cache_dir=cache", "--config.model.image_size=32",
    "--config.epochs=4", "--config.batch_size=12", QUICK,
)  # fmt: skip

# A run for one process or several, also when it is interrupted: the fixture `alone` trains it in one process.
JOB = (
    "--config=m1", "--workdir=work", "--config.model.image_size=32", "--config.batch_size=12", "--config.epochs=2",
    "--config.checkpoint.steps=2", "--config.data.cache_dir=cache", "--config.optimizer.learning_rate=1e-6",
    QUICK,
)  # fmt: skip


def draw_folder(root: Path, split: str, normal: int, pneumonia: int, first: int = 0) -> None:
    """Write synthetic radiographs as PNG into root/split/{NORMAL,PNEUMONIA}; an empty `split` adds no folder level."""
    for label, (name, count) in enumerate((("NORMAL", normal), ("PNEUMONIA", pneumonia))):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image, _ = phantom.render(seed=7, index=first + 1000 * label + i, label=label, size=40)
            Image.fromarray(image).save(folder / f"chest {i:03d}.png")


def draw(path: Path, label: int, number: int) -> None:
    """Write one synthetic radiograph, the `number`th, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom.render(5, number, label, 48)[0]).save(path)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file that Pillow writes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file: a dictionary for each row."""
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def pneumojax(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run the command line from `cwd`, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "pneumojax.main", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def in_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Do what the command line does, in this process and on one device.

    Starting a process takes seconds, and compiling in it more. What the command line itself does is not tested by this.
    """
    plain, overrides = configs.split_overrides(map(str, arguments))
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in plain)
    workdir = None if "workdir" not in flags else expanded(flags["workdir"])
    command = modes.Command(flags.get("config"), workdir, flags.get("model"), flags.get("data"), overrides)
    out, err, layout = io.StringIO(), io.StringIO(), sharding.layout
    with contextlib.chdir(cwd), redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "layout", lambda devices=None: layout(devices or jax.devices()[:1]))
        patch.setattr(run_log.console, "width", 200)
        try:
            status = modes.run(flags.get("mode", "train"), command)
        except UserError as error:
            status = ExitStatus.USER_ERROR
            print(f"pneumojax: {one_line(str(error))}", file=err)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def refused(*arguments: str, cwd: Path, run: Callable[..., subprocess.CompletedProcess] = pneumojax) -> str:
    """Run a command that must be refused: one line on standard error, and no file written. Return that line."""
    before = _contents(cwd)
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 2, (done.returncode, done.stderr)
    [line] = done.stderr.splitlines()
    assert line.startswith("pneumojax: ")
    assert "Traceback" not in done.stdout
    assert _contents(cwd) == before
    return line


def _contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def without_tensorflow(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run the command line where neither TensorFlow, TFDS nor ArrayRecord can be imported."""
    program = (
        "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'tensorflow_datasets', 'array_record'));"
        "from pneumojax.main import run; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def small_config() -> ConfigDict:
    """Return a config for small runs, with one random augmentation: all of the recipe's would take long to compile."""
    config = configs.load("m1")
    augmentation = {f"augment.{name}": 0.0 for name in config.augment} | {"augment.contrast": 0.3}
    small = {"model.image_size": SIZE, "epochs": 3, "batch_size": 16, "evaluation.batch_size": 16}
    return configs.with_fields(config, small | augmentation)


def one_epoch(source: Path | str, folder: Path, **data: Any) -> ConfigDict:
    """Return a config that trains one epoch on `source`, with its cache in `folder` and other fields of `data`."""
    fields = {"epochs": 1, "batch_size": 8, "model.image_size": SIZE, "explanation.steps": 4}
    data = {"source": str(source), "cache_dir": str(folder / "cache"), "val_fraction": 0.25} | data
    fields |= {f"data.{name}": value for name, value in data.items()}
    return run_config.completed(configs.with_fields(configs.load("m1"), fields))
