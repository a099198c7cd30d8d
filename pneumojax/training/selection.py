"""The choice of the epoch whose model is used."""

from typing import NamedTuple

from numpy.typing import ArrayLike

from pneumojax.evaluation import metrics

CONFIDENCE = 0.6827  # one standard error either way


class Best(NamedTuple):
    """The best val AUC so far, and the low end of its DeLong interval of one standard error."""

    auc: float
    low: float


def follow(best: Best | None, labels: ArrayLike, logits: ArrayLike) -> tuple[Best, bool]:
    """Select the latest epoch within one standard error of the best val AUC.

    Breiman et al. ("Classification and Regression Trees", 1984) choose the simplest tree within one standard error of
    the best. Here it is the model that was trained longest. Val sets are small, so the highest AUC is often luck, in
    the middle of the learning rate's decay, where a model is less robust: BENCHMARKS.md compares the two.

    Args:
      best: after the epoch before; None before the first epoch.
      labels, logits: of val after this epoch, (n,).

    Returns:
      The best after this epoch, and whether this epoch's model is used from now on.

    Raises:
      metrics.Undefined: val has only one class.
    """
    auc = metrics.auc(labels, logits)
    if best is None or auc >= best.auc:
        return Best(auc, metrics.auc_interval(labels, logits, CONFIDENCE)[0]), True
    return best, auc >= best.low
