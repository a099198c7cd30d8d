"""The worst errors, and the training images beside them: by hand."""

import numpy as np

from pneumojax import cases, neighbours
from pneumojax.data.readers import Split

SIDE = 8


def told(labels, chances, threshold):
    return {"scores": (np.array(labels), np.array(chances)), "threshold": threshold}


def test_errors_come_by_their_distance_from_the_threshold():
    """On the scale of log-odds, where 0.01 is farther from 0.3 than 0.9 is."""
    evaluated = told([1, 0, 1, 0, 1, 0], [0.01, 0.9, 0.8, 0.1, 0.29, 0.3], 0.3)
    np.testing.assert_array_equal(cases.worst_errors(evaluated, 9), [0, 1, 4, 5])
    np.testing.assert_array_equal(cases.worst_errors(evaluated, 2), [0, 1])
    assert len(cases.worst_errors(told([0, 1], [0.1, 0.9], 0.5), 3)) == 0


def split(name, count, first):
    """Image number i is of one grey, `first` + i."""
    ids = np.array([f"{name} <{i}>" for i in range(count)])

    def read(indices):
        return np.stack([np.full((SIDE, SIDE, 1), first + i, np.uint8) for i in indices])

    return Split(name, ids, np.arange(count, dtype=np.uint8) % 2, read)


def build():
    """An error near the axis of training images 2 (normal) and 3 (pneumonia)."""
    train, test = split("train", 12, 0), split("test", 2, 100)
    angles = np.linspace(0, 1.5, 12)
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    index = neighbours.build(train.ids, train.labels, features, features[:5])
    own = np.array([[1.0, 0.0], 3 * features[2] + 0.01 * features[3]])
    evaluated = told([0, 1], [0.2, 0.1], 0.5)
    return cases.build(evaluated, test, own, index, train, explain=lambda image: image / 255.0)


def test_a_case_has_the_nearest_training_images_of_both_classes():
    [case] = build()
    assert (case.id, case.label, case.probability, case.unlike) == ("test <1>", 1, 0.1, False)
    assert case.image.tolist() == [[101] * SIDE] * SIDE
    assert case.explained.shape == (SIDE, SIDE, 3)
    assert [(one.label, one.id) for one in case.nearest] == [
        (0, "train <2>"), (0, "train <4>"), (1, "train <3>"), (1, "train <1>"),
    ]  # fmt: skip
    assert [int(one.image[0, 0]) for one in case.nearest] == [2, 4, 3, 1]
    assert case.nearest[0].distance < case.nearest[1].distance


def test_the_page_shows_them_escaped_and_warns_of_a_method_that_fails():
    page = cases.html(build(), failing="")
    assert page.count("<img ") == 6
    assert "test &lt;1&gt;" in page and "test <1>" not in page
    assert "<b>pneumonia</b>, called normal: probability 0.100." in page
    assert "fail their checks" not in page
    assert "Integrated gradients fail their checks: why &amp; how." in cases.html(build(), failing="why & how")
