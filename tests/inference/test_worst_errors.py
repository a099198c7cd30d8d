"""The worst errors and the training images near them, by hand."""

import numpy as np

from pneumojax.data.source import Split
from pneumojax.evaluation import neighbours
from pneumojax.inference import worst_errors

SIDE = 8


def evaluation(labels, probabilities, threshold):
    return {"scores": (np.array(labels), np.array(probabilities)), "threshold": threshold}


def test_errors_are_ordered_by_distance_from_the_threshold():
    """On the scale of log-odds, 0.01 is farther from 0.3 than 0.9 is."""
    mixed = evaluation([1, 0, 1, 0, 1, 0], [0.01, 0.9, 0.8, 0.1, 0.29, 0.3], 0.3)
    np.testing.assert_array_equal(worst_errors.worst_errors(mixed, 9), [0, 1, 4, 5])
    np.testing.assert_array_equal(worst_errors.worst_errors(mixed, 2), [0, 1])
    assert len(worst_errors.worst_errors(evaluation([0, 1], [0.1, 0.9], 0.5), 3)) == 0


def split(name, count, first):
    """Return a split whose image number i is uniformly grey, at level `first` + i."""
    ids = np.array([f"{name} {i}" for i in range(count)])

    def read(indices):
        return np.stack([np.full((SIDE, SIDE, 1), first + i, np.uint8) for i in indices])

    return Split(name, ids, np.arange(count, dtype=np.uint8) % 2, read)


def test_an_error_has_the_nearest_training_images_of_both_classes():
    """Its features are near those of training images 2 (normal) and 3 (pneumonia)."""
    train, test = split("train", 12, 0), split("test", 2, 100)
    angles = np.linspace(0, 1.5, 12)
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    index = neighbours.build(train.ids, train.labels, features, features[:5])
    test_features = np.array([[1.0, 0.0], 3 * features[2] + 0.01 * features[3]])
    [error] = worst_errors.collect(
        evaluation([0, 1], [0.2, 0.1], 0.5), test, test_features, index, train, explain=lambda image: image / 255.0
    )
    assert (error.id, error.label, error.probability, error.unlike) == ("test 1", 1, 0.1, False)
    assert error.image.tolist() == [[101] * SIDE] * SIDE
    assert error.explained.shape == (SIDE, SIDE, 3)
    assert [(near.label, near.id) for near in error.nearest] == [
        (0, "train 2"), (0, "train 4"), (1, "train 3"), (1, "train 1"),
    ]  # fmt: skip
    assert [int(near.image[0, 0]) for near in error.nearest] == [2, 4, 3, 1]
    assert error.nearest[0].distance < error.nearest[1].distance
