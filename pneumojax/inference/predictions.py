"""A model's predictions for images without labels, one row for each."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from pneumojax.data.source import CLASSES
from pneumojax.data.sources.unlabelled import Seen
from pneumojax.evaluation import known_pictures, metrics, neighbours
from pneumojax.evaluation.calibration import Calibration

UNLIKE = "unlike_training"
KNOWN = "in_training"  # the model was trained or chosen on this picture


class Row(NamedTuple):
    """The prediction for one image; if the image cannot be read, only `id` and `error` are set.

    Attributes:
      id: path of the file, or position in an NPZ file.
      probability: P(pneumonia), calibrated, at the config's prevalence, in [0, 1].
      decision: "pneumonia" if the probability is at least `threshold`, otherwise "normal".
      threshold: the balanced one, with the best balanced accuracy on val, in [0, 1]; at the config's prevalence.
      decision_at_sens95: the decision at `threshold_sens95`.
      threshold_sens95: the sensitive one, with a sensitivity of at least 95 % on val and never above `threshold`, in
        [0, 1]; at the config's prevalence.
      ood_score: distance to the training images, in [0, 2]; see `neighbours.ood_scores`.
      flags: reasons not to rely on the prediction: those of `Seen`, "unlike_training" and "in_training".
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


class Member(NamedTuple):
    """A model whose outputs are scored, alone or with others.

    Attributes:
      training: the index of its training images.
      scale: what its logits are divided by before the mean over an ensemble's members: its temperature; 1 for a model
        alone.
    """

    training: neighbours.Index
    scale: float


def rows(
    batch: Sequence[tuple[str, Seen]],
    outputs: Sequence[tuple[Float[Array, " padded"], Float[Array, "padded features"]]] | None,
    calibration: Calibration,
    members: Sequence[Member],
) -> list[Row]:
    """Make the rows of a batch of ids and what was read.

    `outputs` are each member's logits and features of the readable images, in order, perhaps with padding; None if
    there are none. Of several members, the mean of the logits counts, the median OOD score, and the flag that more than
    half of them raise.
    """
    pictures = [seen.image for _, seen in batch if seen.image is not None]
    scores = iter(())
    if outputs is not None:
        found = [[np.asarray(part, np.float32)[: len(pictures)] for part in pair] for pair in jax.device_get(outputs)]
        logits = np.mean([own / member.scale for (own, _), member in zip(found, members, strict=True)], axis=0)
        p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
        ood_scores = np.stack(
            [neighbours.ood_scores(member.training, own) for (_, own), member in zip(found, members, strict=True)]
        )
        limits = np.array([[member.training.limit] for member in members])
        hashes = np.stack([known_pictures.hash_of(picture) for picture in pictures])
        raised = {
            UNLIKE: (ood_scores > limits).mean(0) > 0.5,
            KNOWN: known_pictures.known(members[0].training.seen, hashes),  # all saw the same images
        }
        flags = [tuple(flag for flag, of in raised.items() if of[i]) for i in range(len(pictures))]
        scores = zip(p.tolist(), np.median(ood_scores, axis=0).tolist(), flags, strict=True)
    return [
        Row(id, error=seen.problem) if seen.image is None else _row(id, seen, *next(scores), calibration)
        for id, seen in batch
    ]


def _row(id: str, seen: Seen, p: float, ood_score: float, flags: tuple[str, ...], calibration: Calibration) -> Row:
    return Row(
        id=id,
        probability=p,
        decision=CLASSES[p >= calibration.threshold],
        threshold=calibration.threshold,
        decision_at_sens95=CLASSES[p >= calibration.threshold_sens95],
        threshold_sens95=calibration.threshold_sens95,
        ood_score=ood_score,
        flags=seen.flags + flags,
    )
