"""The epoch in use is the latest within one standard error of the best val AUC."""

import numpy as np
import pytest
from sklearn import metrics as sk

from pneumojax.evaluation import metrics
from pneumojax.training import selection

LABELS = np.array([0] * 40 + [1] * 60)


def logits(misplaced: int) -> np.ndarray:
    """Return ranks in which `misplaced` images of each class are exchanged: the AUC is 1 - misplaced^2 / 2400."""
    scores = np.arange(100.0)
    scores[40 : 40 + misplaced], scores[40 - misplaced : 40] = (
        scores[40 - misplaced : 40].copy(),
        scores[40 : 40 + misplaced].copy(),
    )
    return scores


def follow(misplaced):
    """Return for each epoch the best AUC, and whether the epoch is used."""
    best, epochs = None, []
    for number in misplaced:
        best, use = selection.follow(best, LABELS, logits(number))
        epochs.append((best.auc, use))
    return epochs


def test_a_better_epoch_is_used_and_a_much_worse_one_is_not():
    assert [use for _, use in follow([10, 5, 20, 15])] == [True, True, False, False]
    assert [auc for auc, _ in follow([10, 5, 20, 15])] == pytest.approx([1 - n**2 / 2400 for n in (10, 5, 5, 5)])
    assert sk.roc_auc_score(LABELS, logits(5)) == pytest.approx(1 - 25 / 2400)


def test_a_later_epoch_within_the_standard_error_is_used_and_does_not_lower_the_bar():
    """Otherwise a slow decline could pass, with each epoch within the error of the one before."""
    low = metrics.auc_interval(LABELS, logits(10), 0.6827)[0]
    within = [n for n in range(10, 21) if 1 - n**2 / 2400 >= low]
    assert 1 < len(within) < 11
    assert follow([10, *range(10, 21)])[1:] == [(pytest.approx(1 - 100 / 2400), n in within) for n in range(10, 21)]


def test_of_equal_epochs_the_later_is_used():
    assert follow([5, 5]) == [(pytest.approx(1 - 25 / 2400), True)] * 2


def test_after_a_perfect_epoch_another_is_used():
    """DeLong's standard error is zero there, which would rule out every later epoch that is not perfect."""
    assert [use for _, use in follow([0, 1, 20])] == [True, True, False]


def test_one_class_is_refused():
    with pytest.raises(metrics.Undefined):
        selection.follow(None, [1, 1], [0.0, 1.0])
