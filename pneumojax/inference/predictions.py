"""A model's predictions for images without labels, one row for each."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from pneumojax.data.source import CLASSES
from pneumojax.data.sources.unlabelled import Seen
from pneumojax.evaluation import film_statistics, guard, known_pictures, metrics
from pneumojax.evaluation.calibration import Calibration
from pneumojax.inference.trained_model import Member, TrainedModel

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
      ood_score: how far the image is from the training images, at least 0; see `guard.scores`.
      flags: reasons not to rely on the prediction: those of `Seen`, "unlike_training" and "in_training".
      error: why the image cannot be read.
      model: name of the model, such as "m1".
      version: of PneumoJAX, which read the image and computed the row.
      digest: of the model's weights and calibration, see `trained_model.digest_of`.
      site: name of the site that the model is set up for; empty where it is as trained.
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
    model: str = ""
    version: str = ""
    digest: str = ""
    site: str = ""


def without_number(row: Row) -> Row:
    """Return the row without probability and decisions if it has flags: nobody should rely on these."""
    return row._replace(probability=None, decision=None, decision_at_sens95=None) if row.flags else row


def rows(
    batch: Sequence[tuple[str, Seen]],
    outputs: Sequence[tuple[Float[Array | np.ndarray, " padded"], Float[Array | np.ndarray, "padded features"]]] | None,
    model: TrainedModel,
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
        logits, ood_scores, unlike = together(found, model.members, np.stack(pictures))
        p = metrics.probabilities(logits, model.calibration.temperature, model.calibration.offset)
        hashes = np.stack([known_pictures.hash_of(picture) for picture in pictures])
        raised = {UNLIKE: unlike, KNOWN: known_pictures.known(seen_by(model), hashes)}
        flags = [tuple(flag for flag, of in raised.items() if of[i]) for i in range(len(pictures))]
        scores = zip(p.tolist(), ood_scores.tolist(), flags, strict=True)
    rows = [
        Row(id, error=seen.problem) if seen.image is None else _row(id, seen, *next(scores), model.calibration)
        for id, seen in batch
    ]
    site = model.site.name if model.site else ""
    return [row._replace(model=model.name, version=model.version, digest=model.digest, site=site) for row in rows]


def together(
    outputs: Sequence[Sequence[Float32[np.ndarray, "n ..."]]],
    members: Sequence[Member],
    images: UInt8[np.ndarray, "n size size"] | None = None,
    statistics: Float32[np.ndarray, "n statistics"] | None = None,
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Combine each member's logits and features; a guard needs the images too, or their `film_statistics`.

    Returns:
      The mean of the logits, each divided by its member's scale; the median OOD score; and whether more than half of
      the members find the image unlike their training images.
    """
    pairs = list(zip(outputs, members, strict=True))
    logits = np.mean([logits / member.scale for (logits, _), member in pairs], axis=0)
    if statistics is None and images is not None and any(guard.has_guard(member.training) for member in members):
        statistics = film_statistics.of(images)
    scores = np.stack([guard.scores(member.training, features, statistics) for (_, features), member in pairs])
    limits = np.array([[member.training.limit] for member in members])
    return logits, np.median(scores, axis=0), (scores > limits).mean(0) > 0.5


def seen_by(model: TrainedModel) -> known_pictures.Hashes:
    """Return the hashes of the images that the model was trained or chosen on; all members saw the same."""
    return model.members[0].training.seen


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
