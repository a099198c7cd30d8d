"""The report of an epoch: its metrics on train and val, and its line on the terminal."""

from collections.abc import Mapping

import numpy as np

from pneumojax.evaluation import metrics

_COLUMNS = "{:>7}  {:>9}  {:>6}  {:>6}  {:>7}  {:>6}  {:>6}  {:>7}  {:>8}"  # 78 characters
HEADER = _COLUMNS.format("epoch", "train bce", "acc", "auc", "val bce", "acc", "auc", "lr", "images/s")


def brief(labels: np.ndarray, logits: np.ndarray) -> dict[str, float | None]:
    """Return the BCE, accuracy and AUC of logits, (n,), as a metrics line has them; AUC is None of one class."""
    return {
        "bce": metrics.bce(labels, logits),
        "accuracy": float(np.mean((logits >= 0) == labels)),
        "auc": metrics.auc(labels, logits) if len(np.unique(labels)) > 1 else None,
    }


def row(epoch: int, epochs: int, train: Mapping[str, float | None], val: Mapping[str, float | None]) -> str:
    """Return an epoch's line on the terminal, below `HEADER`. The first epoch is 1.

    `train` and `val` are their `brief`; train has `learning_rate` and `images_per_second` besides.
    """
    scores = (
        "-" if values[name] is None else f"{values[name]:.4f}"
        for values in (train, val)
        for name in ("bce", "accuracy", "auc")
    )
    rate, speed = f"{train['learning_rate']:.1e}", f"{train['images_per_second']:.1f}"
    return _COLUMNS.format(f"{epoch}/{epochs}", *scores, rate, speed)
