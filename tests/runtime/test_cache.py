"""Programs are compiled once and used by every later run; a run does not depend on the cache."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from etils import epath
from support import ROOT, draw, read_json

from pneumojax.runtime import cache

PROGRAM = """
import json, pathlib
import jax
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
from pneumojax.main import run
try:
    run()
finally:
    counts = {name: events.count(name) for name in ("cache_hits", "cache_misses")}
    pathlib.Path(WORK + ".json").write_text(json.dumps(counts))
"""


def start(folder, work, *arguments, **variables: str) -> subprocess.Popen:
    """Start a command in `folder` for the workdir `work`, with the cache `cache` there, in a clean environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    flags = [*arguments, f"--workdir={work}", "--config.data.cache_dir=cache"]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("WORK", repr(work)), *flags],
        cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)} | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def train(folder, work, chests) -> subprocess.Popen:
    small = ("--config.model.image_size=32", "--config.batch_size=12", "--config.epochs=1")
    return start(folder, work, "--config=m1:paper", f"--data={chests}", *small)


def counts(folder, work, process) -> dict[str, int]:
    """Wait for a run to succeed without complaint; return how many programs it found in the cache, and missed."""
    _, complaint = process.communicate(timeout=300)
    assert (process.returncode, complaint) == (0, "")
    return json.loads((folder / f"{work}.json").read_text())


@pytest.fixture(scope="module")
def filled(finished, chests, tmp_path_factory):
    """A folder where two runs at the same time have filled the cache: one trains, and both evaluate."""
    folder = tmp_path_factory.mktemp("cached")
    shutil.copytree(finished[0], folder, dirs_exist_ok=True)
    processes = {"one": train(folder, "one", chests), "work": start(folder, "work", "--mode=evaluate")}
    for work, process in processes.items():
        counts(folder, work, process)
    return folder


@pytest.mark.slow
def test_a_later_run_compiles_nothing(filled, chests):
    found = counts(filled, "later", train(filled, "later", chests))
    assert found["cache_misses"] == 0
    assert found["cache_hits"] > 1
    first, later = (read_json(filled / work / "evaluation/test.json") for work in ("one", "later"))
    assert first == later


OTHER_PLACE = {
    "JAX_COMPILATION_CACHE_DIR": f"cache/{cache.COMPILED}",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, OTHER_PLACE], ids=["default place", "JAX's variable"])
def test_damaged_entries_are_compiled_again(filled, variables):
    """A killed process leaves them, in the default place or where JAX's own variable says."""
    damage(filled / "cache" / cache.COMPILED)
    found = counts(filled, "one", start(filled, "one", "--mode=evaluate", **variables))
    assert found["cache_hits"] == 0 < found["cache_misses"]


def damage(compiled):
    for entry in compiled.iterdir():
        os.truncate(entry, entry.stat().st_size // 2)


def test_a_later_prediction_compiles_nothing_unless_the_cache_is_damaged(tmp_path):
    draw(tmp_path / "film.png", 0, 1)

    def predict(work):
        return counts(tmp_path, work, start(tmp_path, work, "--mode=predict", "--model=m1", "--data=film.png"))

    assert predict("first")["cache_misses"] > 0
    names = [path.name for path in (tmp_path / "cache" / cache.COMPILED).iterdir() if path.is_file()]
    assert names and all(cache.ENTRY.fullmatch(name) for name in names), "otherwise nothing would ever be removed"
    later = predict("later")
    assert later["cache_misses"] == 0 < later["cache_hits"]
    damage(tmp_path / "cache" / cache.COMPILED)
    again = predict("again")
    assert again["cache_hits"] == 0 < again["cache_misses"]
    rows = [(tmp_path / work / "predictions/film.png.csv").read_text() for work in ("first", "later", "again")]
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_stops_no_run(finished, tmp_path):
    shutil.copytree(finished[0] / "work", tmp_path / "work")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / cache.COMPILED).write_text("in the way")
    found = counts(tmp_path, "work", start(tmp_path, "work", "--mode=evaluate"))
    assert found == {"cache_hits": 0, "cache_misses": 0}


def test_a_place_set_by_jax_own_variable_is_kept(tmp_path):
    """These tests set JAX_COMPILATION_CACHE_DIR."""
    before = jax.config.jax_compilation_cache_dir
    assert before
    cache.keep_compiled(str(tmp_path))
    assert jax.config.jax_compilation_cache_dir == before
    assert list(tmp_path.iterdir()) == []


def test_programs_that_were_not_used_for_long_are_removed(tmp_path):
    key = f"jit_f-{64 * '0'}"
    names = {f"{key}-cache": False, f"{key}-atime": False, f"jit_g-{64 * '1'}-cache": True}
    others = ("thesis.tex", "unused-cache", f"{key}.txt")
    old = time.time() - (cache.MAX_DAYS + 1) * 86400
    for name, used in (names | dict.fromkeys(others, False)).items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() if used else old, old))
    cache.remove_unused(epath.Path(tmp_path))
    kept = [name for name, used in names.items() if used]
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, *others]), "what another program wrote stays"


NO_HOME = """
import os, pwd
os.environ.pop("HOME", None)
os.environ.pop("XDG_CACHE_HOME", None)
def unknown(_): raise KeyError
pwd.getpwuid = unknown
from pneumojax.runtime import cache
print(cache.folder(""))
"""


def test_a_user_without_a_home_has_a_temporary_folder_of_their_own(tmp_path):
    """As in a container that runs as a user without a name; never a folder named ~ in the current one."""

    def start():
        return subprocess.run(
            [sys.executable, "-c", NO_HOME], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    folder = tmp_path / f"pneumojax-{os.getuid()}"
    for _ in range(2):
        assert start().stdout == f"{folder}\n"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert f"others can write {folder}: set HOME, or --config.data.cache_dir" in start().stderr


def test_an_empty_setting_means_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder("") == epath.Path(tmp_path / "xdg" / "pneumojax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder("") == epath.Path(Path.home() / ".cache" / "pneumojax")
    assert cache.folder("elsewhere") == epath.Path("elsewhere")
