"""The epoch in use: by hand, and against scikit-learn's AUC."""

import numpy as np
import pytest
from sklearn import metrics as sk

from pneumojax import choice, metrics

LABELS = np.array([0] * 40 + [1] * 60)


def logits(misplaced: int) -> np.ndarray:
    """Ranks in which so many neighbouring pairs of classes are turned round: AUC 1 - misplaced^2 / 2400."""
    scores = np.arange(100.0)
    scores[40 : 40 + misplaced], scores[40 - misplaced : 40] = (
        scores[40 - misplaced : 40].copy(),
        scores[40 : 40 + misplaced].copy(),
    )
    return scores


def follow(misplaced):
    """For each epoch: the best AUC, and whether it is used."""
    best, found = None, []
    for number in misplaced:
        best, use = choice.follow(best, LABELS, logits(number))
        found.append((best.auc, use))
    return found


def test_a_better_epoch_is_used_and_a_much_worse_one_is_not():
    assert [use for _, use in follow([10, 5, 20, 15])] == [True, True, False, False]
    assert [auc for auc, _ in follow([10, 5, 20, 15])] == pytest.approx([1 - n**2 / 2400 for n in (10, 5, 5, 5)])
    assert sk.roc_auc_score(LABELS, logits(5)) == pytest.approx(1 - 25 / 2400)


def test_a_later_epoch_within_the_standard_error_is_used_and_does_not_lower_the_bar():
    """Else a slow decline could pass, each epoch within the error of the one before."""
    low = metrics.auc_interval(LABELS, logits(10), 0.6827)[0]
    within = [n for n in range(10, 21) if 1 - n**2 / 2400 >= low]
    assert 1 < len(within) < 11
    assert follow([10, *range(10, 21)])[1:] == [(pytest.approx(1 - 100 / 2400), n in within) for n in range(10, 21)]


def test_of_equals_the_later_is_used():
    assert follow([5, 5]) == [(pytest.approx(1 - 25 / 2400), True)] * 2


def test_after_a_perfect_epoch_another_is_used():
    """DeLong sees no spread there, which would leave no later epoch a chance but a perfect one."""
    assert [use for _, use in follow([0, 1, 20])] == [True, True, False]


def test_one_class_chooses_nothing():
    with pytest.raises(metrics.Undefined):
        choice.follow(None, [1, 1], [0.0, 1.0])
