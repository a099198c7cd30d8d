"""Preparing images: interrupted and continued, shared by two processes, read once; and the config left as it was."""

import os
import signal
import subprocess
import sys
import time

import pytest
from support import ROOT, draw_folder, one_epoch, pneumojax

from pneumojax.data.sources import open_source
from pneumojax.data.store.builder import folder_of
from pneumojax.runtime import run_log
from pneumojax.workflows import prepare

pytestmark = pytest.mark.filterwarnings(
    r"ignore:label\(\) is deprecated:DeprecationWarning"  # Protobuf's, called by TFDS
)


@pytest.mark.slow
def test_interrupted_preparing_leaves_nothing_and_continues(tmp_path):
    draw_folder(tmp_path / "data", "", 100, 100)
    arguments = ["--mode=prepare", "--data=data", "--config.data.cache_dir=cache", "--config.data.workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumojax.main", *arguments],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("cache/*partial*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 75, complaint
    assert complaint == "pneumojax: interrupted: run the same command again to continue\n"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"], "nothing else is left"
    again = pneumojax(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "200 images read in" in again.stdout
    assert "Prepared: 200 images of 150 px in cache/data-" in again.stdout


def test_prepared_images_are_not_read_again(tmp_path, capsys):
    draw_folder(tmp_path / "data", "", 6, 6)
    config = one_epoch(tmp_path / "data", tmp_path)
    prepare.prepare_source(config)
    assert "12 images read in" in capsys.readouterr().out
    prepare.prepare_source(config)
    printed = capsys.readouterr().out
    assert "read in" not in printed
    assert "Prepared: 12 images of 32 px in" in printed


def test_a_second_process_waits_for_the_one_that_prepares(tmp_path, monkeypatch):
    """When the first is killed, the second prepares the images itself."""
    draw_folder(tmp_path / "data", "", 3, 3)
    config = one_epoch(tmp_path / "data", tmp_path)
    folder = folder_of(open_source(str(tmp_path / "data")), config.model.image_size, config.data.cache_dir)
    lock = folder.with_name(f"{folder.name}.lock")
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert first.stdout.readline() == "held\n"
    lines = []

    def note(line):
        lines.append(line)
        first.kill()

    monkeypatch.setattr(run_log.console, "print", note)
    prepare.prepare_source(config)
    first.communicate()
    assert "waiting" in lines[0]
    assert "Prepared: 6 images" in lines[-1]


HOLDER = """
import sys, time
from etils import epath
from pneumojax.runtime.files import locked
with locked(epath.Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def test_opening_a_source_changes_no_config(chests, monkeypatch, tmp_path):
    """The config that comes back has absolute paths; the one that was given keeps its own."""
    monkeypatch.chdir(chests.parent)
    config = one_epoch("chests", tmp_path)
    before = config.to_dict()
    opened, source = prepare.open_own(config)
    assert config.to_dict() == before
    assert opened.data.source == source.location == str(chests)


def test_relative_labels_become_absolute(tmp_path, monkeypatch):
    draw_folder(tmp_path / "data", "", 3, 3)
    images = sorted((tmp_path / "data").rglob("*.png"))
    for number, path in enumerate(images):
        path.rename(tmp_path / "data" / f"{number}.png")
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(f"{n}.png,{n % 2}\n" for n in range(6)))
    monkeypatch.chdir(tmp_path)
    opened, _ = prepare.open_own(one_epoch("data", tmp_path, labels="labels.csv"))
    assert opened.data.labels == str(tmp_path / "labels.csv")
