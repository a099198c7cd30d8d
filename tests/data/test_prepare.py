"""Prepared splits: written once, equal to the source to the bit, and never half."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pneumojax.data import prepare
from pneumojax.data.images import UnreadableImage
from pneumojax.data.prepare import prepared_splits
from pneumojax.data.readers import from_source
from pneumojax.data.records import Record, Source
from pneumojax.data.sources import open_source
from pneumojax.data.splits import as_given, for_training
from pneumojax.errors import UserError

pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS of Protobuf

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "kermany_224"
SIZE = 6

RECORDS = tuple(
    Record(f"{split}/{i:03d}", i % 3 % 2, f"p{i // 2}", split)
    for split, count in (("train", 40), ("val_given", 7))
    for i in range(count)
)


class Toy:
    """A source that counts its reads; every image differs. `bad` ids are unreadable."""

    def __init__(self, *, fingerprint="1", bad=(), before_read=lambda count: None):
        self.reads = 0
        self._bad, self._before_read = bad, before_read
        self.source = Source("toy", "/toy", RECORDS, fingerprint, self._read)

    def _read(self, record, size):
        self.reads += 1
        self._before_read(self.reads)
        if record.id in self._bad:
            raise UnreadableImage(f"mean trick no {self._bad.index(record.id)}")
        seed = RECORDS.index(record)
        return np.random.default_rng([seed, size]).integers(0, 256, (size, size), dtype=np.uint8)


def prepared(toy, cache, size=SIZE, splits=None):
    return prepared_splits(toy.source, splits or as_given(toy.source.records), size=size, cache_dir=str(cache))


def everything(split):
    return split.read(np.arange(len(split.ids)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(cache folder, the prepared splits of a plain Toy): for tests that only read."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, prepared(Toy(), cache)


def test_equal_to_reading_the_source_and_in_matching_order(shared):
    splits = shared[1]
    assert set(splits) == {"train", "val_given"}
    for name, members in as_given(RECORDS).items():
        split = splits[name]
        assert split.name == name
        assert sorted(split.ids) == sorted(record.id for record in members)
        by_id = {record.id: record for record in members}
        direct = from_source(Toy().source, name, [by_id[id] for id in split.ids], SIZE)
        images = everything(split)
        assert images.shape == (len(members), SIZE, SIZE, 1)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, everything(direct))
        np.testing.assert_array_equal(split.labels, direct.labels)
        assert split.labels.dtype == np.uint8


def test_reads_any_indices_in_the_order_asked_for(shared):
    split = shared[1]["train"]
    images = everything(split)
    for indices in ([39, 0, 7, 7], [5], np.array([3, 1], np.int64)):
        np.testing.assert_array_equal(split.read(indices), images[np.asarray(indices)])


def test_the_second_time_decodes_nothing(shared):
    cache, first = shared
    again = Toy()
    second = prepared(again, cache)
    assert again.reads == 0
    np.testing.assert_array_equal(second["train"].ids, first["train"].ids)
    np.testing.assert_array_equal(everything(second["train"]), everything(first["train"]))


def test_nothing_but_the_shards_stays(shared):
    (folder,) = shared[0].iterdir()
    assert not [path for path in folder.rglob("*") if path.is_dir()]
    assert folder.name.startswith("toy-")


@pytest.mark.parametrize("change", ["fingerprint", "size", "split", "label"])
def test_whatever_it_depends_on_prepares_anew(shared, change):
    toy, size, splits = Toy(), SIZE, as_given(RECORDS)
    if change == "fingerprint":
        toy = Toy(fingerprint="2")
    elif change == "size":
        size = SIZE + 1
    elif change == "split":
        splits = {"train": splits["train"][:-1], "val": splits["train"][-1:], "val_given": splits["val_given"]}
    else:
        first = splits["train"][0]
        splits["train"] = (first._replace(label=1 - first.label), *splits["train"][1:])
        toy.source = toy.source._replace(read=lambda record, size: np.zeros((size, size), np.uint8))
    before = set(shared[0].iterdir())
    result = prepared(toy, shared[0], size, splits)
    assert len(set(shared[0].iterdir()) - before) == 1
    assert {name: len(split.ids) for name, split in result.items()} == {n: len(m) for n, m in splits.items()}
    assert everything(result["train"]).shape[1] == size


@pytest.mark.parametrize("bad", [("train/001", "train/020", "val_given/003"), tuple(r.id for r in RECORDS[40:])])
def test_all_unreadable_images_are_told_at_once_and_nothing_stays(tmp_path, bad):
    """Also where they leave nothing of a split."""
    toy = Toy(bad=bad)
    with pytest.raises(UserError, match=f"^{len(bad)} unreadable") as caught:
        prepared(toy, tmp_path)
    assert toy.reads == len(RECORDS)
    for i, id in enumerate(bad[:5]):
        assert f"{id} (mean trick no {i})" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_error_that_is_not_the_images_leaves_nothing_either(tmp_path):
    def break_down(count):
        if count == 10:
            raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        prepared(Toy(before_read=break_down), tmp_path)
    assert not list(tmp_path.iterdir())
    assert len(prepared(Toy(), tmp_path)["train"].ids) == 40


def test_an_empty_setting_means_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert prepare._user_cache() == str(tmp_path / "xdg" / "pneumojax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Path(prepare._user_cache()).expanduser() == Path.home() / ".cache" / "pneumojax"


OTHER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
from test_prepare import Toy, prepared, everything

def wait(count):
    if count == 20:
        (Path({signals!r}) / "begun").touch()
        while not (Path({signals!r}) / "go on").exists():
            time.sleep(0.02)

splits = prepared(Toy(before_read=wait), {cache!r})
assert everything(splits["train"]).any()
"""


@pytest.fixture
def other(tmp_path):
    """Starts a second process that prepares a Toy into tmp_path/cache, and stops in the middle."""
    signals = tmp_path / "signals"
    signals.mkdir()
    names = {"root": str(ROOT), "here": str(Path(__file__).parent), "signals": str(signals)}
    code = OTHER.format(cache=str(tmp_path / "cache"), **names)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (signals / "begun").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


def test_a_killed_preparation_is_never_taken_for_a_whole_one(other, tmp_path):
    cache = tmp_path / "cache"
    assert len(list(cache.iterdir())) == 1, "the killed process should have begun to write"
    os.kill(other.pid, signal.SIGKILL)
    assert other.wait() == -signal.SIGKILL
    toy = Toy()
    splits = prepared(toy, cache)
    assert toy.reads == len(RECORDS)
    assert len(everything(splits["train"])) == 40
    (folder,) = cache.iterdir()
    assert "partial" not in folder.name, "what the killed process left is removed"


def test_two_preparations_at_once_both_end_well_and_quietly(other, tmp_path):
    """Processes of one machine start together. The first to end must not disturb the other."""
    toy = Toy()
    ours = everything(prepared(toy, tmp_path / "cache")["train"])
    assert toy.reads == len(RECORDS)
    assert other.poll() is None
    (tmp_path / "signals" / "go on").touch()
    stdout, stderr = other.communicate(timeout=120)
    assert (other.returncode, stdout, stderr) == (0, "", "")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    again = Toy()
    np.testing.assert_array_equal(everything(prepared(again, tmp_path / "cache")["train"]), ours)
    assert again.reads == 0


def test_preparing_says_nothing(tmp_path, capfd):
    prepared(Toy(), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_real_set(tmp_path):
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    source = open_source(str(REAL))
    few = [record for record in source.records if record.split == "val"]
    few += [record for record in source.records if record.split == "train"][::100]
    splits, _ = for_training(few, seed=0, val_fraction=0.2, test_fraction=0.0)
    result = prepared_splits(source, splits, size=150, cache_dir=str(tmp_path))
    for name, members in splits.items():
        by_id = {record.id: record for record in members}
        direct = [source.read(by_id[id], 150) for id in result[name].ids]
        np.testing.assert_array_equal(everything(result[name])[..., 0], direct)
        np.testing.assert_array_equal(result[name].labels, ["PNEUMONIA" in id for id in result[name].ids])
