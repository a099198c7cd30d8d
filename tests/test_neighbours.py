"""Nearest training images: as scikit-learn finds them, by hand, and from a file that may be damaged."""

import io
import json
import math
import pickle

import numpy as np
import pytest
from etils import epath
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from pneumojax import neighbours
from pneumojax.errors import UserError

IDS = ["train/NORMAL/Röntgen 1.png", "胸部/影.dcm", "a,b\n'c'.png", "no utf-8 \udcff.png"]


def random_features(seed: int, n: int) -> np.ndarray:
    """Of any length, and none negative, as ReLU gives them."""
    return np.abs(np.random.default_rng(seed).normal(size=(n, 16))).astype(np.float32) * 7


@pytest.fixture(scope="module")
def index():
    """2000 training images, of which every third is pneumonia."""
    ids = [f"train/{number}.png" for number in range(2000)]
    labels = (np.arange(2000) % 3 == 0).astype(int)
    return neighbours.build(ids, labels, random_features(0, 2000), random_features(1, 200))


def expected(index, queries, count, label=None):
    """Places and distances by scikit-learn in float64, on vectors that it normalized."""
    among = np.arange(len(index.ids)) if label is None else np.flatnonzero(index.labels == label)
    reference = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(normalize(random_features(0, 2000))[among])
    distances, places = reference.kneighbors(normalize(queries))
    return among[places], distances


@pytest.mark.parametrize("label", [None, 0, 1])
@pytest.mark.parametrize("at_once", [1, 15_000, 1 << 24])
def test_the_nearest_are_scikit_learns(index, monkeypatch, label, at_once):
    """However few distances are held at a time: one image, some, or all of them."""
    monkeypatch.setattr(neighbours, "_AT_ONCE", at_once)
    queries = random_features(2, 31)
    places, distances = neighbours.nearest(index, queries, 12, label)
    should_places, should_distances = expected(index, queries, 12, label)
    np.testing.assert_array_equal(places, should_places)
    np.testing.assert_allclose(distances, should_distances, rtol=1e-5, atol=1e-5)
    assert label is None or set(index.labels[places.ravel()]) == {label}


@pytest.mark.parametrize(("label", "there_are"), [(None, 2000), (0, 1333), (1, 667), (2, 0)])
def test_of_fewer_than_are_asked_for_all_are_given(index, label, there_are):
    queries = random_features(3, 5)
    places, distances = neighbours.nearest(index, queries, 5000, label)
    assert places.shape == distances.shape == (5, there_are)
    if there_are:
        should_places, should_distances = expected(index, queries, there_are, label)
        np.testing.assert_allclose(distances, should_distances, rtol=1e-5, atol=1e-5)
        assert [set(row) for row in places] == [set(row) for row in should_places]


def test_a_training_image_is_nearest_to_itself_and_its_brightness_does_not_count(index):
    places, distances = neighbours.nearest(index, index.features * 50, 1)
    np.testing.assert_array_equal(places[:, 0], np.arange(2000))
    np.testing.assert_allclose(distances, 0, atol=2e-3)  # the root of what float32 leaves of 2 - 2


def test_no_image_has_no_neighbours(index):
    places, distances = neighbours.nearest(index, np.empty((0, 16), np.float32), 3)
    assert places.shape == distances.shape == (0, 3)


def test_features_are_divided_by_their_length_and_zeros_stay():
    found = neighbours.unit(np.array([[3, 4], [0, 0], [0, -1e-3], [1e6, 0]]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [0, -1], [1, 0]], rtol=1e-6)


def test_unlikeness_is_the_distance_to_the_tenth(index):
    queries = random_features(4, 9)
    np.testing.assert_allclose(
        neighbours.unlikeness(index, queries), expected(index, queries, 10)[1][:, 9], rtol=1e-5, atol=1e-5
    )


def test_unlikeness_by_hand():
    """Ten training images lie on the first axis, nine on the second and none on the third."""
    axes = np.eye(3)[[0] * 10 + [1] * 9]
    index = neighbours.Index(np.arange(19).astype(str), np.zeros(19, np.uint8), axes.astype(np.float32), 0.5)
    queries = np.array([[5, 0, 0], [0, 5, 0], [0, 0, 5], [0, 0, 0], [-1, 0, 0]])
    # The tenth nearest of the second axis lies on the first; opposite to the first, nine are nearer than it.
    np.testing.assert_allclose(
        neighbours.unlikeness(index, queries), [0, math.sqrt(2), math.sqrt(2), 1, 2], rtol=1e-6, atol=1e-6
    )
    # Of three training images, one on the first axis, the farthest counts.
    few = index._replace(ids=index.ids[9:12], labels=index.labels[9:12], features=index.features[9:12])
    np.testing.assert_allclose(neighbours.unlikeness(few, queries[:2]), [math.sqrt(2)] * 2, rtol=1e-6)


def test_the_limit_keeps_99_of_100_of_val(index):
    """Of 200 images, two lie beyond it."""
    far = np.sort(expected(index, random_features(1, 200), 10)[1][:, 9])
    assert far[197] <= index.limit < far[198]
    assert (neighbours.unlikeness(index, random_features(1, 200)) > index.limit).sum() == 2


def test_an_index_is_read_as_it_was_written(tmp_path):
    work = epath.Path(tmp_path / "work")
    written = neighbours.build(IDS, np.array([0, 1, 1, 0]), random_features(5, 4), random_features(6, 30))
    for _ in range(2):
        neighbours.write(work, written)
        found = neighbours.read(work)
        assert found.ids.tolist() == IDS
        assert found.limit == written.limit
        assert (found.labels.dtype, found.features.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(found.labels, [0, 1, 1, 0])
        np.testing.assert_array_equal(found.features, neighbours.unit(random_features(5, 4)))
    assert [path.name for path in (tmp_path / "work").iterdir()] == [neighbours.FILE]


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        neighbours.read(epath.Path(folder))
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert str(folder / neighbours.FILE) in line
    assert "--mode=evaluate" in line
    return line


def test_a_missing_index_is_told(tmp_path):
    assert "is missing" in refusal(tmp_path)


def members(**changed):
    """What `write` writes, but for what is changed; None leaves a member out."""
    whole = {"ids": np.array(json.dumps(["a", "b"])), "labels": np.zeros(2, np.uint8)}
    whole |= {"features": np.eye(2, dtype=np.float32), "limit": np.array(0.5)} | changed
    file = io.BytesIO()
    np.savez_compressed(file, **{name: array for name, array in whole.items() if array is not None})
    return file.getvalue()


def test_what_the_damaged_ones_are_made_from_is_sound(tmp_path):
    (tmp_path / neighbours.FILE).write_bytes(members())
    assert neighbours.read(epath.Path(tmp_path)).ids.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive\nat all",
        pickle.dumps({"ids": ["a"]}),
        members(limit=None),
        members(ids=np.array("[")),
        members(ids=np.array("7")),
        members(ids=np.array(["a", "b"])),
        members(ids=np.array(json.dumps(["a"]))),
        members(labels=np.zeros(3, np.uint8)),
        members(limit=np.zeros(2)),
    ],
    ids=[
        "empty",
        "text",
        "pickle",
        "no limit",
        "no JSON",
        "no list",
        "no text",
        "few ids",
        "many labels",
        "two limits",
    ],
)
def test_a_damaged_index_is_told(tmp_path, content):
    (tmp_path / neighbours.FILE).write_bytes(content)
    assert "is damaged" in refusal(tmp_path)


def test_an_index_cut_short_anywhere_is_told(tmp_path):
    neighbours.write(epath.Path(tmp_path), neighbours.build(IDS, np.zeros(4), random_features(5, 4), np.eye(16)))
    whole = (tmp_path / neighbours.FILE).read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / neighbours.FILE).write_bytes(whole[:length])
        assert "is damaged" in refusal(tmp_path)


class Harm:
    """Once unpickled, it has made a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", neighbours.Index._fields)
def test_nothing_is_unpickled(tmp_path, name):
    harm = np.array([Harm(tmp_path / "harmed"), None], object)
    (tmp_path / neighbours.FILE).write_bytes(members(**{name: harm}))
    assert "is damaged" in refusal(tmp_path)
    assert not (tmp_path / "harmed").exists()
