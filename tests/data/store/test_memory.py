"""Images in memory equal those in shards, and errors are the same."""

import shutil

import numpy as np
import pytest
from support import SIZE, draw_folder

from pneumojax.data.sources import open_source
from pneumojax.data.store import builder, memory
from pneumojax.runtime.errors import UserError

pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS of Protobuf


@pytest.fixture
def source(tmp_path):
    """Thirty images and a copy of one; another one is broken."""
    root = tmp_path / "chests"
    draw_folder(root, "train", 15, 15)
    normal = root / "train/NORMAL"
    shutil.copy(normal / "chest 003.png", normal / "copy.png")
    (normal / "chest 007.png").write_bytes((normal / "chest 007.png").read_bytes()[:200])
    return open_source(str(root))


def test_images_and_copies_are_those_of_shards(source, tmp_path):
    held = memory.hold(source, size=SIZE, on_error="skip")
    written = builder.prepare(source, size=SIZE, cache_dir=str(tmp_path / "cache"), on_error="skip")
    assert set(held.places) == set(written.places)
    assert held.unreadable == written.unreadable
    assert list(held.unreadable) == ["train/NORMAL/chest 007.png"]
    assert held.identical == written.identical == [["train/NORMAL/chest 003.png", "train/NORMAL/copy.png"]]
    assert held.near_equal == written.near_equal
    records = [record for record in source.records if record.id in held.places]
    in_memory, in_shards = (prepared.split("train", records) for prepared in (held, written))
    order = np.random.default_rng(0).permutation(len(records))
    np.testing.assert_array_equal(in_memory.read(order), in_shards.read(order))
    np.testing.assert_array_equal(in_memory.labels, in_shards.labels)


def test_processes_read_the_same(source):
    held, by_processes = (memory.hold(source, size=SIZE, on_error="skip", workers=workers) for workers in (0, 2))
    places = np.arange(len(source.records))
    np.testing.assert_array_equal(held.read(places), by_processes.read(places))


def test_unreadable_images_are_refused(source):
    with pytest.raises(UserError, match="^1 unreadable image: train/NORMAL/chest 007.png"):
        memory.hold(source, size=SIZE)


def test_too_many_images_are_refused_before_any_is_read(source):
    def read(record, size):
        raise AssertionError("an image was read")

    with pytest.raises(UserError, match="31 images of 32 px would take more than .* pip install tensorflow"):
        memory.hold(source._replace(read=read), size=SIZE, limit=31 * SIZE**2 - 1)
