"""A model's predictions for images without labels, one row for each."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from pneumojax.data.source import CLASSES
from pneumojax.data.sources.unlabelled import Seen
from pneumojax.evaluation import metrics, neighbours
from pneumojax.evaluation.calibration import Calibration

UNLIKE = "unlike_training"


class Row(NamedTuple):
    """The prediction for one image; if the image cannot be read, only `id` and `error` are set.

    Attributes:
      id: path of the file, or position in an NPZ file.
      probability: P(pneumonia), calibrated, at the config's prevalence, in [0, 1].
      decision: "pneumonia" if the probability is at least `threshold`, otherwise "normal".
      threshold: the stored one, with the best balanced accuracy on val, in [0, 1]; at the config's prevalence.
      decision_at_sens95: the decision at `threshold_sens95`.
      threshold_sens95: the stored one, with a sensitivity of 95 % on val, in [0, 1]; at the config's prevalence.
      ood_score: distance to the training images, in [0, 2]; see `neighbours.ood_scores`.
      flags: reasons not to rely on the prediction: "size", "colour", "constant", "inverted", "unlike_training".
      error: why the image cannot be read.
    """

    id: str
    probability: float | None = None
    decision: str | None = None
    threshold: float | None = None
    decision_at_sens95: str | None = None
    threshold_sens95: float | None = None
    ood_score: float | None = None
    flags: tuple[str, ...] = ()
    error: str | None = None


def rows(
    batch: Sequence[tuple[str, Seen]],
    outputs: tuple[Float[Array, " padded"], Float[Array, "padded features"]] | None,
    calibration: Calibration,
    index: neighbours.Index,
) -> list[Row]:
    """Make the rows of a batch of ids and what was read.

    `outputs` are logits and features of the readable images, in order, perhaps with padding; None if there are none.
    """
    readable = [seen for _, seen in batch if seen.image is not None]
    scores = iter(())
    if outputs is not None:
        logits, features = (np.asarray(part, np.float32)[: len(readable)] for part in jax.device_get(outputs))
        p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
        scores = zip(p.tolist(), neighbours.ood_scores(index, features).tolist(), strict=True)
    return [
        Row(id, error=seen.problem) if seen.image is None else _row(id, seen, *next(scores), calibration, index.limit)
        for id, seen in batch
    ]


def _row(id: str, seen: Seen, p: float, ood_score: float, calibration: Calibration, limit: float) -> Row:
    return Row(
        id=id,
        probability=p,
        decision=CLASSES[p >= calibration.threshold],
        threshold=calibration.threshold,
        decision_at_sens95=CLASSES[p >= calibration.threshold_sens95],
        threshold_sens95=calibration.threshold_sens95,
        ood_score=ood_score,
        flags=(*seen.flags, UNLIKE) if ood_score > limit else seen.flags,
    )
