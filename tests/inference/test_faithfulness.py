"""Measures of attribution methods, on maps of known quality."""

from functools import partial

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy.stats import spearmanr

from pneumojax.inference import faithfulness

SIDE = 40
RNG = np.random.default_rng(0)


def test_rank_correlation_uses_signed_values():
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


def test_a_mask_of_another_shape_is_refused():
    """Otherwise an image's map could be compared with another image's lesion."""
    with pytest.raises(TypeCheckError, match="mask"):
        faithfulness.pointing_hit(np.ones((2, 2)), np.ones((2, 3), bool))


def bright_spot():
    """Return an image with a finely chequered spot, a map of the spot, and a model that sees how much of it remains."""
    image = np.full((SIDE, SIDE), 100, np.uint8)
    spot = np.zeros((SIDE, SIDE), bool)
    spot[8:16, 20:28] = True
    image[spot] = np.where(np.indices((SIDE, SIDE)).sum(0)[spot] % 2, 200, 0)

    def probabilities_of(images):
        unchanged = np.abs(images[:, spot].astype(float) - image[spot]) < 20
        return unchanged.mean(1)

    return image, spot.astype(float), probabilities_of


def test_deletion_and_insertion_distinguish_a_right_map_from_a_wrong_one():
    """With the right map, the spot changes at the first step; with the opposite one, at the last."""
    image, right, probabilities_of = bright_spot()
    deletion, insertion = faithfulness.deletion_and_insertion(image, right, probabilities_of, 0.5)
    assert deletion < 0.1 and insertion > 0.9
    deletion, insertion = faithfulness.deletion_and_insertion(image, -right, probabilities_of, 0.5)
    assert deletion > 0.9 and insertion < 0.1


def test_for_a_negative_prediction_negative_evidence_is_deleted_first():
    image, right, probabilities_of = bright_spot()
    deletion, insertion = faithfulness.deletion_and_insertion(
        image, -right, lambda images: 1 - probabilities_of(images), 0.5
    )
    assert deletion < 0.1 and insertion > 0.9


def test_the_class_is_the_one_predicted_at_the_threshold():
    image, right, _ = bright_spot()
    measure = partial(faithfulness.deletion_and_insertion, image, right, lambda batch: np.full(len(batch), 0.6))
    areas = {threshold: measure(threshold) for threshold in (0.5, 0.8)}
    assert areas[0.5] == pytest.approx((0.6, 0.6))
    assert areas[0.8] == pytest.approx((0.4, 0.4))


def test_check_fails_a_method_that_ignores_the_model():
    image, right, probabilities_of = bright_spot()
    fixed = RNG.standard_normal((SIDE, SIDE))
    noise = iter(RNG.standard_normal((9, SIDE, SIDE)))
    measured = faithfulness.check(
        {"good": lambda image: right + 1e-3 * fixed, "edges": lambda image: fixed},
        {"good": lambda image, number: next(noise), "edges": lambda image, number: 2 * fixed},
        image[None],
        probabilities_of,
        [right > 0],
        0.5,
    )
    assert list(measured) == ["good", "edges", "random"]
    assert measured["good"]["hits"] == 1 and measured["good"]["chance_hits"] == pytest.approx(64 / SIDE**2)
    assert measured["good"]["random_deletion"] == measured["random"]["deletion"]
    assert faithfulness.verdict(measured["good"]) == ""
    assert faithfulness.verdict(measured["edges"]).startswith("its maps are much the same for an untrained network")
    assert faithfulness.verdict(measured["random"]) == ""


def test_agreement_of_an_untrained_network_by_chance_cancels_out():
    """Networks with other initial weights give the same pattern with either sign."""
    image, right, probabilities_of = bright_spot()
    images = np.stack([image] * 4)
    correlations = {}
    for name, sign in (("one sign", lambda number: 1), ("either sign", lambda number: (-1) ** number)):
        untrained = {"edges": lambda image, number, sign=sign: sign(number) * right}
        methods = {"edges": lambda image: right}
        measured = faithfulness.check(methods, untrained, images, probabilities_of, [None] * 4, 0.5)
        correlations[name] = measured["edges"]["rank_correlation"]
    assert correlations == {"one sign": pytest.approx(1), "either sign": pytest.approx(0)}


def test_without_masks_localization_is_not_measured():
    image, right, probabilities_of = bright_spot()
    measured = faithfulness.check({"good": lambda image: right}, {}, image[None], probabilities_of, [None], 0.5)
    assert "hits" not in measured["good"]
