"""The guard: what is like the training images is let through, and what is not is flagged."""

import numpy as np
import pytest

from pneumojax.data.sources import phantom
from pneumojax.evaluation import film_statistics, guard, neighbours

WIDTH = 8


def drawn(first, count, size=64):
    return np.stack([phantom.render(1, first + number, number % 2, size)[0] for number in range(count)])


def features(seed, count, center=1.0):
    return np.random.default_rng(seed).normal(center, 0.2, (count, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def index():
    """Of 300 phantoms, with a limit from 100 others; the features are drawn at random about one point."""
    ids, labels = np.arange(300).astype(str), np.arange(300) % 2
    plain = neighbours.build(ids, labels, features(0, 300), features(1, 100))
    train = drawn(0, 300)
    statistics = [film_statistics.of(images) for images in (train, drawn(300, 100))]
    return guard.guarded(plain, *statistics, features(1, 100), film_statistics.of(guard.turned(train)))


def flagged(index, images, seed=2, center=1.0):
    scores = guard.scores(index, features(seed, len(images), center), film_statistics.of(images))
    return float((scores > index.limit).mean())


def test_few_of_val_are_beyond_the_limit(index):
    """1.5 % by distances, and one in 500 by the discriminant: one or two images of 100, three at most."""
    assert index.limit == 1
    assert 0.01 <= flagged(index, drawn(300, 100), seed=1) <= 0.03


def test_new_phantoms_pass_and_other_pictures_do_not(index):
    """The features say nothing here: what is flagged is so by its statistics."""
    new = drawn(400, 100)
    assert flagged(index, new) <= 0.06
    assert flagged(index, 255 - new) == 1
    for turns in (1, 2, 3):
        assert flagged(index, np.rot90(new, turns, (1, 2))) >= 0.95
    assert flagged(index, np.random.default_rng(0).integers(0, 256, (20, 64, 64), np.uint8)) == 1
    assert flagged(index, np.full((1, 64, 64), 100, np.uint8)) == 1


def test_features_alone_can_flag(index):
    """New phantoms whose features lie the other way."""
    assert flagged(index, drawn(400, 50), center=-1.0) == 1


def test_the_larger_part_counts_in_units_of_its_limit(index):
    images = drawn(400, 20)
    statistics, found = film_statistics.of(images), features(3, 20)
    parts = guard.parts_of(index, found, statistics)
    np.testing.assert_array_equal(parts[0], neighbours.ood_scores(index, found))
    expected = np.max([part / limit for part, limit in zip(parts, index.guard_limits, strict=True)], axis=0)
    np.testing.assert_allclose(guard.scores(index, found, statistics), expected, rtol=1e-5)


def test_parts_of_training_images(index):
    """They are uncorrelated along the axes and have the variance 1; an image is no distance from itself."""
    statistics = film_statistics.of(drawn(0, 300))
    along = (statistics - index.guard_center) @ index.guard_axes
    np.testing.assert_allclose(np.mean(along[:, :20] ** 2, axis=0), 1, rtol=0.01)
    np.testing.assert_allclose(along.mean(0), 0, atol=0.01)
    _, near, _, turned = guard.parts_of(index, features(0, 300), statistics)
    brute = np.linalg.norm(along[:7, None, : guard.NEAR] - along[None, :, : guard.NEAR], axis=2)
    np.testing.assert_allclose(near[:7], np.sort(brute, 1)[:, guard.NEAR_K - 1], rtol=1e-3)
    assert turned.mean() == pytest.approx(0, abs=0.01)
    other = guard.parts_of(index, features(0, 300), film_statistics.of(guard.turned(drawn(0, 300))))[3]
    assert other.mean() == pytest.approx(1, abs=0.01)


def test_limits_of_some_parts(index):
    parts = np.random.default_rng(0).uniform(0.5, 1, (1000, 4))
    limits = guard.limits_of(parts, (0, 1))
    assert np.isinf(limits[2:]).all()
    assert ((parts / limits).max(1) > 1).mean() == pytest.approx(neighbours.EXPECTED, abs=1e-3)


def test_an_index_without_a_guard_scores_as_before():
    """Files of earlier versions have none."""
    plain = neighbours.build(np.arange(50).astype(str), np.zeros(50, np.uint8), features(0, 50), features(1, 20))
    assert not guard.has_guard(plain)
    np.testing.assert_array_equal(
        guard.scores(plain, features(2, 9), None), neighbours.ood_scores(plain, features(2, 9))
    )


def test_a_guard_needs_statistics(index):
    with pytest.raises(ValueError, match="statistics"):
        guard.scores(index, features(2, 3), None)


def test_few_equal_images_make_a_guard():
    """Then no statistic varies, and there are far fewer images than statistics."""
    same = film_statistics.of(np.repeat(drawn(0, 1), 5, 0))
    plain = neighbours.build(np.arange(5).astype(str), np.zeros(5, np.uint8), features(0, 5), features(1, 5))
    made = guard.guarded(plain, same, same, features(1, 5), same)
    assert np.isfinite(made.guard_axes).all()
    neighbours.check_additions(made)
