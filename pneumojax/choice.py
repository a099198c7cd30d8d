"""Which of a run's epochs is used: the latest one that val cannot tell from the best."""

from typing import NamedTuple

from numpy.typing import ArrayLike

from pneumojax import metrics

CONFIDENCE = 0.6827  # one standard error either way


class Best(NamedTuple):
    """The highest val AUC so far, and the low end of its DeLong interval of one standard error."""

    auc: float
    low: float


def follow(best: Best | None, labels: ArrayLike, logits: ArrayLike) -> tuple[Best, bool]:
    """The best after one more epoch, and whether that epoch is to be used instead of those before.

    It is where its AUC is not below the best by more than the best's standard error (Breiman et al., "Classification
    and Regression Trees", 1984, choose the simplest such tree; here it is the one trained longest). Among epochs that
    so few images cannot part, the highest AUC falls to luck, often in the middle of the learning rate's decay, where
    a model is less robust: BENCHMARKS.md has the comparison.

    Args:
      best: up to the epoch before; None before the first.
      labels, logits: of val after this epoch, (n,). Raises `metrics.Undefined` where only one class is present.
    """
    auc = metrics.auc(labels, logits)
    if best is None or auc >= best.auc:
        return Best(auc, metrics.auc_interval(labels, logits, CONFIDENCE)[0]), True
    return best, auc >= best.low
