"""Labels and logits that the tests of metrics share."""

import math

import numpy as np

# Probabilities 0.75, 0.25, 0.5, 0.1, 0.5.
HAND_LABELS = [1, 1, 0, 0, 1]
HAND_LOGITS = [math.log(3), -math.log(3), 0.0, -math.log(9), 0.0]


def with_ties(seed: int, n: int = 300, share: float = 0.8, shift: float = 0.7, digits: int = 1):
    """Return labels of both classes, and logits that overlap; few digits make many ties."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < share * n).astype(int)
    return labels, np.round(rng.normal(size=n) + shift * (2 * labels - 1), digits)


def without_ties(seed: int, n: int = 200, share: float = 0.7):
    """Return labels of both classes, and logits that overlap and have no ties."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < share * n).astype(int)
    return labels, 2 * rng.normal(size=n) + 1.5 * (2 * labels - 1)
