"""Damage to any file of a workdir: what can be made again is, and the rest is one line; never a traceback.

Nothing outside the workdir changes. A few cases each time; `make fuzz` tries 500, different ones each time.
"""

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from etils import epath
from support import draw, read_json

from pneumojax import modes
from pneumojax.evaluation import neighbours
from pneumojax.modes import Command
from pneumojax.runtime.errors import UserError

CASES = int(os.environ["FUZZ"]) // 2 if "FUZZ" in os.environ else 5
LIMIT_S = 120  # of a case: one that takes longer waits for something
VALUES = (None, True, -1, 3, 10**30, 1e999, "", "x", "\x1b[31m", "../../precious", [], [[]], {}, {"a": {"b": 1}})

pytestmark = [
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings("ignore"),  # of libraries about damaged files
]


def cut(rng, path, outside):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])


def empty(rng, path, outside):
    path.write_bytes(b"")


def flip(rng, path, outside):
    content = bytearray(path.read_bytes()) or bytearray(b"x")
    for _ in range(rng.choice((1, 5))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def replace_value(rng, path, outside):
    """Put another value into JSON, or another word into a text."""
    try:
        tree = json.loads(path.read_text())
        assert isinstance(tree, dict) and tree
    except (AssertionError, ValueError):
        words = path.read_bytes().split(b",")
        words[rng.randrange(len(words))] = str(rng.choice(VALUES)).encode()
        path.write_bytes(b",".join(words))
        return
    node = tree
    while isinstance(node[key := rng.choice(list(node))], dict) and node[key] and rng.random() < 0.8:
        node = node[key]
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(VALUES)
    path.write_text(json.dumps(tree))


def nest(rng, path, outside):
    path.write_text("[" * 100_000)


def not_a_number(rng, path, outside):
    path.write_text(path.read_bytes().decode(errors="replace").replace("0.", "NaN, 0.", 1) + "NaN")


def remove(rng, path, outside):
    path.unlink()


def become_a_folder(rng, path, outside):
    path.unlink()
    path.mkdir()


def become_a_pipe(rng, path, outside):
    path.unlink()
    os.mkfifo(path)


def become_a_link(rng, path, outside):
    path.unlink()
    path.symlink_to(outside / "precious")


HARMS = (
    cut, empty, flip, replace_value, replace_value, nest, not_a_number, remove, become_a_folder, become_a_pipe,
    become_a_link,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(finished, chests, tmp_path_factory):
    """A workdir with every kind of file that a run can have."""
    folder = tmp_path_factory.mktemp("whole")
    work = epath.Path(shutil.copytree(finished[0] / "work", folder / "work"))
    draw(folder / "films/film.png", 1, 3)
    data, explained = str(folder / "films"), ["explanation.methods=grad-cam", "explanation.count=2"]
    modes.run("audit", Command(workdir=work, data=str(chests)))
    modes.run("predict", Command(workdir=work, data=data))
    modes.run("explain", Command(workdir=work, overrides=[*explained, "explanation.checks=true"]))
    return Path(work)


def commands(work, films):
    """Return what is tried on a damaged workdir; evaluating, which takes longest, least often."""
    methods = ["explanation.methods=grad-cam", "explanation.count=1"]
    return (
        *[("predict", Command(workdir=work, data=str(films)))] * 5,
        *[("explain", Command(workdir=work, overrides=methods))] * 3,
        *[("train", Command(workdir=work))] * 3,
        ("evaluate", Command(workdir=work)),
    )


def attempt(mode, command):
    """Do what the command line does; return the line that it would print, or nothing."""
    try:
        modes.run(mode, command)
    except (UserError, OSError) as error:
        line = str(error)
        assert line and (isinstance(error, OSError) or "\n" not in line)
        return line
    return ""


def hang(number, frame):
    raise AssertionError(f"still busy after {LIMIT_S} s")


@pytest.fixture
def alarm():
    before = signal.signal(signal.SIGALRM, hang)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_damage_is_repaired_or_one_line(whole, finished, tmp_path, alarm, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(finished[0] / "cache", tmp_path / "cache/pneumojax")
    seed = random.SystemRandom().randrange(2**32) if "FUZZ" in os.environ else 0
    rng = random.Random(int(os.environ.get("SEED", seed)))
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    # Each file of a checkpoint is one of dozens alike.
    weights = [0.2 if "checkpoints" in name.parts or name.suffix == ".png" else 1 for name in names]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    refused = 0
    for number in range(CASES):
        work = Path(shutil.copytree(whole, tmp_path / "work"))
        [name] = rng.choices(names, weights)
        harm, (mode, command) = rng.choice(HARMS), rng.choice(commands(epath.Path(work), whole.parent / "films"))
        case = f"SEED={seed}, case {number}: {harm.__name__} {name}, then {mode}"
        harm(rng, work / name, outside)
        alarm(LIMIT_S)
        try:
            line = attempt(mode, command)
        except BaseException:
            print(case)
            raise
        alarm(0)
        refused += bool(line)
        assert os.listdir(outside) == ["precious"] and (outside / "precious").read_text() == "precious", case
        shutil.rmtree(work)
    print(f"{CASES} cases, {refused} refused in one line")


COMPUTED = ("evaluation/test.json", "evaluation/val.csv", "neighbours.npz")
DERIVED = (*COMPUTED, "splits.csv", "remarks.txt", "fingerprint.txt", "report/index.html")


@pytest.mark.parametrize("harm", [empty, pytest.param(remove, marks=pytest.mark.slow)])
def test_training_again_writes_what_is_missing(complete, chests, tmp_path, harm):
    """All that a run derives from its config, images and checkpoints; and the same as before."""
    config, work = complete(tmp_path)
    before = {name: (work / name).read_bytes() for name in DERIVED}
    for name in DERIVED:
        harm(None, Path(work / name), None)
    overrides = [f"data.cache_dir={config.data.cache_dir}"]
    assert attempt("train", Command(workdir=work, overrides=overrides)) == ""
    for name in ("splits.csv", "remarks.txt", "fingerprint.txt"):
        assert (work / name).read_bytes() == before[name], name
    again, first = read_json(work / "evaluation/test.json"), json.loads(before["evaluation/test.json"])
    assert again.keys() == first.keys()
    assert again["bce"] == pytest.approx(first["bce"], rel=1e-5)  # another process computed it
    ids = [[row.partition(",")[0] for row in text.splitlines()] for text in
           ((work / "evaluation/val.csv").read_text(), before["evaluation/val.csv"].decode())]  # fmt: skip
    assert ids[0] == ids[1]
    assert neighbours.read(work).features.shape == (108, 128)
    assert (work / "report/index.html").read_text().rstrip().endswith("</html>")


def test_a_damaged_table_of_splits_says_which_command_writes_it(complete, tmp_path):
    _, work = complete(tmp_path)
    (work / "splits.csv").write_text((work / "splits.csv").read_text().replace(",val", ",train", 1))
    line = attempt("evaluate", Command(workdir=work))
    assert "splits.csv is damaged: run --mode=train --workdir=" in line
