"""Measures of explanation methods: on maps whose merit is known."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from pneumojax import faithfulness

SIDE = 40
RNG = np.random.default_rng(0)


def test_rank_correlation_is_of_signed_values():
    values = RNG.standard_normal((SIDE, SIDE))
    assert faithfulness.rank_correlation(values, 3 * values + 1) == pytest.approx(1)
    assert faithfulness.rank_correlation(values, -values) == pytest.approx(-1)
    other = values + RNG.standard_normal((SIDE, SIDE))
    assert faithfulness.rank_correlation(values, other) == pytest.approx(spearmanr(values.ravel(), other.ravel())[0])
    assert faithfulness.rank_correlation(values, np.ones((SIDE, SIDE))) == 0


def test_pointing_and_energy_by_hand():
    mask = np.zeros((2, 2), bool)
    mask[0, 0] = True
    assert faithfulness.pointing_hit(np.array([[3.0, 2.0], [-9.0, 0.0]]), mask)
    assert not faithfulness.pointing_hit(np.array([[1.0, 2.0], [0.0, 0.0]]), mask)
    assert faithfulness.energy_inside(np.array([[3.0, 2.0], [-9.0, 1.0]]), mask) == pytest.approx(0.5)
    assert faithfulness.energy_inside(np.full((2, 2), -1.0), mask) == 0


def bright_spot():
    """An image with a fine chequered spot, and the model that sees how much of it is there."""
    image = np.full((SIDE, SIDE), 100, np.uint8)
    spot = np.zeros((SIDE, SIDE), bool)
    spot[8:16, 20:28] = True
    image[spot] = np.where(np.indices((SIDE, SIDE)).sum(0)[spot] % 2, 200, 0)

    def chances(images):
        there = np.abs(images[:, spot].astype(float) - image[spot]) < 20
        return there.mean(1)

    return image, spot.astype(float), chances


def test_deletion_and_insertion_tell_a_right_map_from_a_wrong_one():
    """What the model sees is gone after the first stop, or there after it; by the opposite map, at the last."""
    image, right, chances = bright_spot()
    deletion, insertion = faithfulness.deletion_and_insertion(image, right, chances)
    assert deletion < 0.1 and insertion > 0.9
    deletion, insertion = faithfulness.deletion_and_insertion(image, -right, chances)
    assert deletion > 0.9 and insertion < 0.1


def test_what_speaks_against_is_deleted_where_the_answer_is_normal():
    image, right, chances = bright_spot()
    deletion, insertion = faithfulness.deletion_and_insertion(image, -right, lambda images: 1 - chances(images))
    assert deletion < 0.1 and insertion > 0.9


def test_check_fails_what_ignores_the_model_and_passes_what_does_not():
    image, right, chances = bright_spot()
    fixed = RNG.standard_normal((SIDE, SIDE))
    noise = iter(RNG.standard_normal((9, SIDE, SIDE)))
    found = faithfulness.check(
        {"good": lambda image: right + 1e-3 * fixed, "edges": lambda image: fixed},
        {"good": lambda image, number: next(noise), "edges": lambda image, number: 2 * fixed},
        [image],
        chances,
        [right > 0],
    )
    assert list(found) == ["good", "edges", "random"]
    assert found["good"]["hits"] == 1 and found["good"]["chance_hits"] == pytest.approx(64 / SIDE**2)
    assert found["good"]["random_deletion"] == found["random"]["deletion"]
    assert faithfulness.verdict(found["good"]) == ""
    assert faithfulness.verdict(found["edges"]).startswith("its maps are much the same for an untrained network")
    assert faithfulness.verdict(found["random"]) == ""


def test_an_untrained_network_that_agrees_by_chance_says_nothing():
    """Maps of networks with other initial weights have the same pattern with either sign."""
    image, right, chances = bright_spot()
    told = {}
    for name, sign in (("one sign", lambda number: 1), ("either sign", lambda number: (-1) ** number)):
        untrained = {"edges": lambda image, number, sign=sign: sign(number) * right}
        told[name] = faithfulness.check({"edges": lambda image: right}, untrained, [image] * 4, chances, [None] * 4)
    assert told["one sign"]["edges"]["rank_correlation"] == pytest.approx(1)
    assert told["either sign"]["edges"]["rank_correlation"] == pytest.approx(0)


def test_without_masks_nothing_is_said_of_places():
    image, right, chances = bright_spot()
    found = faithfulness.check({"good": lambda image: right}, {}, [image], chances, [None])
    assert "hits" not in found["good"]
