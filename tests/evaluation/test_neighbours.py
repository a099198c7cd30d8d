"""Nearest training images: compared with scikit-learn, by hand, and read from files that may be damaged."""

import io
import json
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from etils import epath
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from pneumojax.evaluation import neighbours
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError

IDS = np.array(["train/NORMAL/Röntgen 1.png", "胸部/影.dcm", "a,b\n'c'.png", "no utf-8 \udcff.png"])


def random_features(seed: int, n: int) -> np.ndarray:
    """Return features of any length and none negative, like the outputs of a ReLU."""
    return np.abs(np.random.default_rng(seed).normal(size=(n, 16))).astype(np.float32) * 7


@pytest.fixture(scope="module")
def index():
    """The index of 2000 training images, of which every third is pneumonia."""
    ids = np.array([f"train/{number}.png" for number in range(2000)])
    labels = (np.arange(2000) % 3 == 0).astype(np.uint8)
    return neighbours.build(ids, labels, random_features(0, 2000), random_features(1, 200))


def expected(index, queries, count, label=None):
    """Return positions and distances by scikit-learn, in float64 on vectors that it normalized."""
    candidates = np.arange(len(index.ids)) if label is None else np.flatnonzero(index.labels == label)
    reference = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(
        normalize(random_features(0, 2000))[candidates]
    )
    distances, positions = reference.kneighbors(normalize(queries))
    return candidates[positions], distances


@pytest.mark.parametrize("label", [None, 0, 1])
@pytest.mark.parametrize("distances_at_once", [1, 15_000, 1 << 24])
def test_the_nearest_are_scikit_learns(index, label, distances_at_once):
    """This must hold whether one image, some or all are searched for at a time."""
    queries = random_features(2, 31)
    positions, distances = neighbours.nearest(index, queries, 12, label, distances_at_once)
    expected_positions, expected_distances = expected(index, queries, 12, label)
    np.testing.assert_array_equal(positions, expected_positions)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-5, atol=1e-5)
    assert label is None or set(index.labels[positions.ravel()]) == {label}


@pytest.mark.parametrize(("label", "available"), [(None, 2000), (0, 1333), (1, 667), (2, 0)])
def test_if_there_are_fewer_than_asked_for_all_are_returned(index, label, available):
    queries = random_features(3, 5)
    positions, distances = neighbours.nearest(index, queries, 5000, label)
    assert positions.shape == distances.shape == (5, available)
    if available:
        expected_positions, expected_distances = expected(index, queries, available, label)
        np.testing.assert_allclose(distances, expected_distances, rtol=1e-5, atol=1e-5)
        assert [set(row) for row in positions] == [set(row) for row in expected_positions]


def test_a_training_image_is_nearest_to_itself_at_any_length_of_its_features(index):
    positions, distances = neighbours.nearest(index, index.features * 50, 1)
    np.testing.assert_array_equal(positions[:, 0], np.arange(2000))
    np.testing.assert_allclose(distances, 0, atol=2e-3)  # the root of float32 rounding in 2 - 2


def test_without_images_there_are_no_neighbours(index):
    positions, distances = neighbours.nearest(index, np.empty((0, 16), np.float32), 3)
    assert positions.shape == distances.shape == (0, 3)


def test_features_are_divided_by_their_length_and_zeros_stay():
    scaled = neighbours.unit(np.array([[3, 4], [0, 0], [0, -1e-3], [1e6, 0]]))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0, 0], [0, -1], [1, 0]], rtol=1e-6)


def test_ood_score_is_the_distance_to_the_tenth_nearest(index):
    queries = random_features(4, 9)
    np.testing.assert_allclose(
        neighbours.ood_scores(index, queries), expected(index, queries, 10)[1][:, 9], rtol=1e-5, atol=1e-5
    )


def test_an_index_holds_all_images_or_as_many_as_allowed_from_all_over():
    assert neighbours.places(7, most=10).tolist() == list(range(7))
    assert neighbours.places(0).tolist() == []
    some = neighbours.places(224_316)
    assert len(some) == neighbours.MOST == len(set(some.tolist()))
    assert some[0] == 0 and some[-1] > 224_300 and set(np.diff(some).tolist()) == {4, 5}


def test_no_more_distances_are_held_than_allowed():
    """With all of CheXpert's 224,316 images, all distances of val to train would take 18 GB."""
    rng = np.random.default_rng(0)
    training, queries = (rng.random((rows, 4), np.float32) for rows in (1000, 4000))
    tracemalloc.start()
    neighbours.kth_distances(training, queries, 10, distances_at_once=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6 < training.itemsize * len(training) * len(queries)


def test_ood_scores_by_hand():
    """Ten training images are on the first axis, nine on the second and none on the third."""
    axes = np.eye(3)[[0] * 10 + [1] * 9]
    index = neighbours.Index(np.arange(19).astype(str), np.zeros(19, np.uint8), axes.astype(np.float32), 0.5)
    queries = np.array([[5.0, 0, 0], [0, 5, 0], [0, 0, 5], [0, 0, 0], [-1, 0, 0]])
    # The tenth nearest to the second axis is on the first. The opposite of the first has nine at sqrt(2) and ten at 2.
    np.testing.assert_allclose(
        neighbours.ood_scores(index, queries), [0, math.sqrt(2), math.sqrt(2), 1, 2], rtol=1e-6, atol=1e-6
    )
    # With only three training images, one of them on the first axis, the farthest counts.
    few = index._replace(ids=index.ids[9:12], labels=index.labels[9:12], features=index.features[9:12])
    np.testing.assert_allclose(neighbours.ood_scores(few, queries[:2]), [math.sqrt(2)] * 2, rtol=1e-6)


def test_99_percent_of_val_is_within_the_limit(index):
    """Two of 200 images are beyond it."""
    scores = np.sort(expected(index, random_features(1, 200), 10)[1][:, 9])
    assert scores[197] <= index.limit < scores[198]
    assert (neighbours.ood_scores(index, random_features(1, 200)) > index.limit).sum() == 2


def test_an_index_is_read_as_it_was_written(tmp_path):
    work = epath.Path(tmp_path / "work")
    written = neighbours.build(IDS, np.array([0, 1, 1, 0], np.uint8), random_features(5, 4), random_features(6, 30))
    for _ in range(2):
        neighbours.write(work, written)
        read = neighbours.read(work)
        assert read.ids.tolist() == IDS.tolist()
        assert read.limit == written.limit
        assert (read.labels.dtype, read.features.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(read.labels, [0, 1, 1, 0])
        np.testing.assert_array_equal(read.features, neighbours.unit(random_features(5, 4)))
    assert [path.name for path in (tmp_path / "work").iterdir()] == [workdirs.NEIGHBOURS]


def refusal(folder) -> str:
    with pytest.raises(UserError) as caught:
        neighbours.read(epath.Path(folder))
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert str(folder / workdirs.NEIGHBOURS) in line
    assert "--mode=evaluate" in line
    return line


def test_a_missing_index_is_reported(tmp_path):
    assert "is missing" in refusal(tmp_path)


def members(**changed):
    """Return what `write` writes, with changed members; None leaves a member out."""
    arrays = {"ids": np.array(json.dumps(["a", "b"])), "labels": np.zeros(2, np.uint8)}
    arrays |= {"features": np.eye(2, dtype=np.float32), "limit": np.array(0.5)} | changed
    file = io.BytesIO()
    np.savez_compressed(file, **{name: array for name, array in arrays.items() if array is not None})
    return file.getvalue()


def test_an_unchanged_file_can_be_read(tmp_path):
    """The damaged ones below are made from it."""
    (tmp_path / workdirs.NEIGHBOURS).write_bytes(members())
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
        members(limit=np.array(np.nan)),
        members(limit=np.array(np.inf)),
        members(features=np.array([[np.nan, 1], [0, 1]], np.float32)),
        members(features=np.eye(2)),
        members(features=np.ones(2, np.float32)),
        members(labels=np.full(2, 7, np.uint8)),
        members(ids=np.array("[]"), labels=np.zeros(0, np.uint8), features=np.zeros((0, 2), np.float32)),
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
        "no number",
        "infinite",
        "features without numbers",
        "doubles",
        "one feature",
        "labels",
        "no images",
    ],
)
def test_a_damaged_index_is_reported(tmp_path, content):
    (tmp_path / workdirs.NEIGHBOURS).write_bytes(content)
    assert "is damaged" in refusal(tmp_path)


def test_an_index_cut_short_anywhere_is_reported(tmp_path):
    neighbours.write(
        epath.Path(tmp_path), neighbours.build(IDS, np.zeros(4, np.uint8), random_features(5, 4), np.eye(16))
    )
    whole = (tmp_path / workdirs.NEIGHBOURS).read_bytes()
    for length in range(0, len(whole), 37):
        (tmp_path / workdirs.NEIGHBOURS).write_bytes(whole[:length])
        assert "is damaged" in refusal(tmp_path)


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", neighbours.Index._fields)
def test_nothing_is_unpickled(tmp_path, name):
    harm = np.array([Harm(tmp_path / "harmed"), None], object)
    (tmp_path / workdirs.NEIGHBOURS).write_bytes(members(**{name: harm}))
    assert "is damaged" in refusal(tmp_path)
    assert not (tmp_path / "harmed").exists()


def test_features_of_another_length_are_reported(tmp_path):
    (tmp_path / workdirs.NEIGHBOURS).write_bytes(members())
    assert neighbours.read(epath.Path(tmp_path), 2).features.shape == (2, 2)
    with pytest.raises(UserError, match="is damaged"):
        neighbours.read(epath.Path(tmp_path), 128)


def test_the_index_of_another_run_is_refused(tmp_path):
    """Its distances would be those to images of another run."""
    one, other = (epath.Path(tmp_path / name) for name in ("one", "other"))
    for workdir, seed in ((one, 0), (other, 1)):
        config = configs.with_fields(configs.load("m1"), {"seed": seed})
        configs.write(config, workdir / workdirs.CONFIG, configs.new_identity(config, "", ""))
        neighbours.write(
            workdir, neighbours.build(IDS, np.zeros(4, np.uint8), random_features(5, 4), random_features(6, 9))
        )
        assert neighbours.is_intact(workdir)
    (one / workdirs.NEIGHBOURS).write_bytes((other / workdirs.NEIGHBOURS).read_bytes())
    assert not neighbours.is_intact(one)
    with pytest.raises(UserError, match="neighbours.npz is of another run than .*config.json: run --mode=evaluate"):
        neighbours.read(one)
