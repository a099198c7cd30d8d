"""The report of an epoch: its metrics on train and val, and its line on the terminal."""

import numpy as np

from pneumojax.evaluation import metrics

_COLUMNS = "{:>7}  {:>9}  {:>6}  {:>6}  {:>7}  {:>6}  {:>6}  {:>7}  {:>8}"  # 78 characters
HEADER = _COLUMNS.format("epoch", "train bce", "acc", "auc", "val bce", "acc", "auc", "lr", "images/s")


def brief(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return the BCE, accuracy and AUC of logits, (n,), as a metrics line has them."""
    return {
        "bce": metrics.bce(labels, logits),
        "accuracy": float(np.mean((logits >= 0) == labels)),
        "auc": metrics.auc(labels, logits),
    }


def row(epoch: int, epochs: int, train: dict[str, float], val: dict[str, float]) -> str:
    """Return an epoch's line on the terminal, below `HEADER`. The first epoch is 1.

    `train` and `val` are their `brief`; train has `learning_rate` and `images_per_second` besides.
    """
    scores = (f"{values[name]:.4f}" for values in (train, val) for name in ("bce", "accuracy", "auc"))
    rate, speed = f"{train['learning_rate']:.1e}", f"{train['images_per_second']:.1f}"
    return _COLUMNS.format(f"{epoch}/{epochs}", *scores, rate, speed)
