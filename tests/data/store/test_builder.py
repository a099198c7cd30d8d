"""Prepared images: written once, equal to the source to the bit, and never incomplete."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.source import Record, Source
from pneumojax.data.sources import open_source, phantom
from pneumojax.data.store import builder
from pneumojax.data.store.builder import Means
from pneumojax.runtime.errors import UserError

pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS of Protobuf

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared" / "data" / "kermany_224"
SIZE = 16

RECORDS = tuple(Record(f"train/{i:03d}", i % 3 % 2, f"p{i // 2}", "train") for i in range(47))


def noise(record, size):
    return np.random.default_rng([int(record.id[-3:]), size]).integers(0, 256, (size, size), dtype=np.uint8)


class Toy:
    """A source that counts its reads; all images differ. `bad` ids are unreadable."""

    def __init__(self, *, fingerprint="1", bad=(), before_read=lambda count: None, records=RECORDS, draw=noise):
        self.reads = 0
        self._bad, self._before_read, self._draw = bad, before_read, draw
        self.source = Source("toy", "/toy", records, fingerprint, self._read)

    def _read(self, record, size):
        self.reads += 1
        self._before_read(self.reads)
        if record.id in self._bad:
            raise UnreadableImage(f"damage {self._bad.index(record.id)}")
        return self._draw(record, size)


def prepared(toy, cache, size=SIZE, **options):
    return builder.prepare(toy.source, size=size, cache_dir=str(cache), **options)


def everything(result, records=RECORDS):
    return result.split("train", records).read(np.arange(len(records)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return (cache folder, prepared images of a Toy), for tests that only read."""
    cache = tmp_path_factory.mktemp("cache")
    return cache, prepared(Toy(), cache)


def test_images_equal_the_source_in_the_order_of_the_records(shared):
    chosen = RECORDS[::-2]
    split = shared[1].split("val", chosen)
    assert split.name == "val"
    assert split.ids.tolist() == [record.id for record in chosen]
    assert split.labels.tolist() == [record.label for record in chosen]
    assert split.labels.dtype == np.uint8
    images = split.read(np.arange(len(chosen)))
    assert images.shape == (len(chosen), SIZE, SIZE, 1)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images[..., 0], [noise(record, SIZE) for record in chosen])


def test_any_indices_are_read_in_their_order(shared):
    images = everything(shared[1])
    split = shared[1].split("train", RECORDS)
    for indices in ([39, 0, 7, 7], [5], np.array([3, 1], np.int64)):
        np.testing.assert_array_equal(split.read(indices), images[np.asarray(indices)])


def test_the_second_time_decodes_nothing(shared):
    cache, first = shared
    again = Toy()
    second = prepared(again, cache)
    assert again.reads == 0
    np.testing.assert_array_equal(everything(second), everything(first))


def test_only_the_shards_stay(shared):
    (folder,) = shared[0].iterdir()
    assert not [path for path in folder.rglob("*") if path.is_dir()]
    assert folder.name.startswith("toy-")


@pytest.mark.parametrize("change", ["fingerprint", "size", "label", "records"])
def test_a_change_of_the_source_or_size_prepares_again(shared, change):
    toy, size = Toy(), SIZE
    if change == "fingerprint":
        toy = Toy(fingerprint="2")
    elif change == "size":
        size = SIZE + 1
    elif change == "label":
        toy = Toy(records=(RECORDS[0]._replace(label=1), *RECORDS[1:]))
    else:
        toy = Toy(records=RECORDS[:-1])
    before = set(shared[0].iterdir())
    result = prepared(toy, shared[0], size)
    assert len(set(shared[0].iterdir()) - before) == 1
    assert toy.reads == len(toy.source.records)
    assert everything(result, toy.source.records).shape[1] == size


def test_other_splits_prepare_nothing(shared):
    """Shards do not depend on splits."""
    toy = Toy(records=tuple(record._replace(split="all", patient="x") for record in RECORDS))
    prepared(toy, shared[0])
    assert toy.reads == 0


def test_copies_are_found(tmp_path):
    """Equal squares are identical; a changed copy is nearly so; others are neither."""

    def draw(record, size):
        number = RECORDS.index(record)
        image = phantom.render(0, {5: 3, 9: 4}.get(number, number), 0, 64)[0]
        return image if number != 9 else np.clip(image * 0.97 + 2, 0, 255).astype(np.uint8)

    result = prepared(Toy(draw=draw), tmp_path, 64)
    assert result.identical == [["train/003", "train/005"]]
    assert result.near_equal == [["train/004", "train/009"]]


@pytest.mark.parametrize("bad", [("train/001", "train/020", "train/043"), tuple(record.id for record in RECORDS)])
def test_all_unreadable_images_are_reported_at_once_and_nothing_stays(tmp_path, bad):
    """The same holds if no image can be read."""
    toy = Toy(bad=bad)
    with pytest.raises(UserError, match=f"^{len(bad)} unreadable") as caught:
        prepared(toy, tmp_path)
    assert toy.reads == len(RECORDS)
    named = [id for i, id in enumerate(bad) if f"{id} (damage {i})" in str(caught.value)]
    assert len(named) == min(5, len(bad))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_unreadable_images_are_skipped_on_request_and_never_forgotten(tmp_path):
    bad = ("train/001", "train/020")
    skipped = prepared(Toy(bad=bad), tmp_path, on_error="skip")
    assert dict(skipped.unreadable) == {id: f"damage {i}" for i, id in enumerate(bad)}
    assert set(skipped.places) == {record.id for record in RECORDS} - set(bad)
    assert not skipped.identical, "unreadable images are no copies of each other"
    kept = [record for record in RECORDS if record.id not in bad]
    np.testing.assert_array_equal(everything(skipped, kept)[..., 0], [noise(record, SIZE) for record in kept])
    again = Toy(bad=bad)
    assert prepared(again, tmp_path, on_error="skip").unreadable == skipped.unreadable
    assert again.reads == 0
    with pytest.raises(UserError, match="^2 unreadable"):
        prepared(again, tmp_path)


def test_unreadable_images_are_tried_again(tmp_path):
    """A disk that was not mounted leaves no trace in the files' times."""
    prepared(Toy(bad=("train/001",)), tmp_path, on_error="skip")
    assert not prepared(Toy(), tmp_path).unreadable


def test_another_error_leaves_nothing(tmp_path):
    def break_down(count):
        if count == 10:
            raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        prepared(Toy(before_read=break_down), tmp_path)
    assert not list(tmp_path.iterdir())
    assert everything(prepared(Toy(), tmp_path)).shape[0] == len(RECORDS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A source of 30 synthetic files, one of them broken."""
    root = tmp_path_factory.mktemp("files") / "drawn"
    for i in range(30):
        path = root / ("NORMAL", "PNEUMONIA")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.render(0, i, i % 2, 48)[0]).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return open_source(str(root))


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if "array_record" in path.name}


@pytest.fixture(scope="module")
def by_threads(files, tmp_path_factory):
    return builder.prepare(files, size=32, cache_dir=str(tmp_path_factory.mktemp("threads")), on_error="skip")


def test_processes_write_the_same_shards(files, by_threads, tmp_path):
    totals = []

    def watched(results, total):
        totals.append(total)
        return results

    means = Means(workers=2, watched=watched)
    result = builder.prepare(files, size=32, cache_dir=str(tmp_path), on_error="skip", means=means)
    assert shards(result.folder) == shards(by_threads.folder)
    assert list(result.unreadable) == ["PNEUMONIA/29.png"]
    assert totals == [30]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam", "ignore::ResourceWarning")
def test_beam_prepares_the_same(files, by_threads, tmp_path):
    means = Means(beam_runner="DirectRunner", beam_options="--direct_num_workers=2")
    result = builder.prepare(files, size=32, cache_dir=str(tmp_path), on_error="skip", means=means)
    assert result.unreadable == by_threads.unreadable
    assert result.places.keys() == by_threads.places.keys()
    records = [record for record in files.records if record.id in result.places]
    np.testing.assert_array_equal(everything(result, records), everything(by_threads, records))


def test_a_missing_beam_is_reported_in_one_line(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install -e \.\[beam\]"):
        builder.prepare(files, size=32, cache_dir=str(tmp_path), means=Means(beam_runner="DirectRunner"))
    assert not list(tmp_path.iterdir())


OTHER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}]
from test_builder import Toy, prepared, everything

def wait(count):
    if count == 20:
        (Path({signals!r}) / "started").touch()
        while not (Path({signals!r}) / "continue").exists():
            time.sleep(0.02)

assert everything(prepared(Toy(before_read=wait), {cache!r})).any()
"""


@pytest.fixture
def other(tmp_path):
    """Start a second process that prepares a Toy into tmp_path/cache and stops in the middle."""
    signals = tmp_path / "signals"
    signals.mkdir()
    names = {"root": str(ROOT), "here": str(Path(__file__).parent), "signals": str(signals)}
    code = OTHER.format(cache=str(tmp_path / "cache"), **names)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (signals / "started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


def test_a_killed_preparation_is_never_taken_for_a_complete_one(other, tmp_path):
    cache = tmp_path / "cache"
    assert len(list(cache.iterdir())) == 1, "the killed process should have started to write"
    os.kill(other.pid, signal.SIGKILL)
    assert other.wait() == -signal.SIGKILL
    toy = Toy()
    killed_and_run_again = prepared(toy, cache)
    assert toy.reads == len(RECORDS)
    undisturbed = prepared(Toy(), tmp_path / "another")
    assert shards(killed_and_run_again.folder) == shards(undisturbed.folder)
    (folder,) = cache.iterdir()
    assert "partial" not in folder.name, "the files of the killed process are removed"


def test_two_preparations_at_once_both_succeed_silently(other, tmp_path):
    """Processes of one machine start together. The first to finish must not disturb the other."""
    toy = Toy()
    images = everything(prepared(toy, tmp_path / "cache"))
    assert toy.reads == len(RECORDS)
    assert other.poll() is None
    (tmp_path / "signals" / "continue").touch()
    stdout, stderr = other.communicate(timeout=120)
    assert (other.returncode, stdout, stderr) == (0, "", "")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    again = Toy()
    np.testing.assert_array_equal(everything(prepared(again, tmp_path / "cache")), images)
    assert again.reads == 0


def test_preparing_prints_nothing(tmp_path, capfd):
    prepared(Toy(), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_the_real_set(tmp_path):
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    source = open_source(str(REAL))
    few = source.records[::100]
    result = builder.prepare(source._replace(records=few), size=150, cache_dir=str(tmp_path))
    np.testing.assert_array_equal(everything(result, few)[..., 0], [source.read(record, 150) for record in few])


def test_a_damaged_shard_is_named_when_it_is_read(tmp_path):
    folder = prepared(Toy(), tmp_path).folder
    [shard] = [path for path in folder.iterdir() if "array_record" in path.name]
    shard.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged: remove it"):
        everything(prepared(Toy(), tmp_path))


@pytest.mark.parametrize(
    ("runner", "options"), [("Nonsense", ""), ("DirectRunner", "--x='a"), ("DirectRunner", "--direct_num_workers=abc")]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:apache_beam", "ignore::ResourceWarning")
def test_a_beam_that_cannot_start_is_reported_in_one_line(files, tmp_path, capfd, runner, options):
    means = Means(beam_runner=runner, beam_options=options)
    with pytest.raises(UserError, match="^Apache Beam cannot be started: ") as caught:
        builder.prepare(files, size=32, cache_dir=str(tmp_path), means=means)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_shards_that_others_may_be_reading_are_not_removed(tmp_path):
    folder = prepared(Toy(bad=("train/001",)), tmp_path, on_error="skip").folder
    with pytest.raises(UserError, match="^1 unreadable"):
        prepared(Toy(bad=("train/001",)), tmp_path)
    assert (folder / builder.INDEX).exists()
