"""The share of pneumonia without labels: drawn scores of a known share."""

import numpy as np
import pytest
from scipy.special import expit

from pneumojax.evaluation import metrics, prevalence
from pneumojax.evaluation.prevalence import Condition

SCALE = (1.0, 0.0, 0.5)  # temperature, offset, prevalence: the logits below are log-odds at one half


def films(normal, pneumonia, seed=0, shift=0.0):
    """Logits of two normal distributions at -2 and 2 of variance 4: then the logit is the log-odds."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(-2, 2, normal), rng.normal(2, 2, pneumonia)]) + shift


VAL = np.repeat([0, 1], 500), films(500, 500, seed=9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_both_methods_find_the_share(share):
    positives = round(2000 * share)
    found = prevalence.estimate(films(2000 - positives, positives), SCALE, VAL, threshold=0.5)
    assert found.em.share == pytest.approx(share, abs=0.04)
    assert found.shift.share == pytest.approx(share, abs=0.06)
    assert found.em.low <= found.em.share <= found.em.high
    assert found.trusted, found.conditions


def test_em_by_hand():
    """Two films of certain class, and no other: the share is one half, whatever it was."""
    assert prevalence.em([0.0, 1.0], 0.9) == pytest.approx(0.5)
    assert prevalence.em([1.0, 1.0], 0.3) == pytest.approx(1)
    assert prevalence.em(expit(films(300, 100)), 0.5) == pytest.approx(0.25, abs=0.05)


def test_black_box_shift_by_hand():
    """Sensitivity 3/4 and false alarms 1/4: half of the films decided as positive means half positive."""
    labels, decided = [1] * 4 + [0] * 4, [1, 1, 1, 0, 1, 0, 0, 0]
    assert prevalence.black_box_shift(labels, decided, [1, 0]) == pytest.approx(0.5)
    assert prevalence.black_box_shift(labels, decided, [1, 1, 1, 0]) == pytest.approx(1)
    assert prevalence.black_box_shift(labels, decided, [0, 0]) == pytest.approx(-0.5)
    with pytest.raises(metrics.Undefined, match="do not depend on the class"):
        prevalence.black_box_shift([1, 0], [1, 1], [1])


def failed(found):
    return {condition.name for condition in found.conditions if not condition.holds}


def test_a_site_whose_films_score_otherwise_is_found_out():
    """All logits are higher by 3: no mixture of val's classes looks so."""
    found = prevalence.estimate(films(500, 500, shift=3.0), SCALE, VAL, threshold=0.5)
    assert "films of each class score as on val" in failed(found)
    assert not found.trusted


def test_other_conditions():
    few = prevalence.estimate(films(5, 5), SCALE, VAL, threshold=0.5)
    assert "enough films" in failed(few)
    useless = VAL[0], np.random.default_rng(1).permutation(VAL[1])
    assert "decisions tell the classes on val" in failed(prevalence.estimate(films(50, 50), SCALE, useless, 0.5))
    unknown = prevalence.estimate(films(50, 50), SCALE, None, 0.5)
    assert (unknown.shift, failed(unknown)) == (None, {"val is known"})
    strange = Condition("films are like the training images", False, "90% are not")
    assert strange.name in failed(prevalence.estimate(films(50, 50), SCALE, VAL, 0.5, strange))


@pytest.mark.parametrize(("p", "share"), [([], 0.5), ([0.5, 2.0], 0.5), ([0.5], 1.0)])
def test_numbers_out_of_range_are_refused(p, share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        prevalence.em(p, share)
