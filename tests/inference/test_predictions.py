"""Rows of predictions, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from support import SIZE

from pneumojax import __version__
from pneumojax.data.sources import phantom
from pneumojax.data.sources.unlabelled import Seen
from pneumojax.evaluation import known_pictures, neighbours
from pneumojax.evaluation.calibration import Calibration
from pneumojax.inference import predictions
from pneumojax.inference.trained_model import Member, TrainedModel


def model_of(calibration, *members):
    """A model of members that are given as (index, scale); their outputs are given too, so they have no networks."""
    members = [Member(None, None, index, scale) for index, scale in members]
    return TrainedModel("m1", "0123456789abcdef", members, calibration, SIZE)


def test_rows_by_hand():
    """Two readable images around an unreadable one, in a batch that is padded with the first."""
    axes = np.eye(3, dtype=np.float32)
    index = neighbours.Index(np.arange(10).astype(str), np.zeros(10, np.uint8), axes[[0] * 10], limit=0.5)
    calibration = Calibration(temperature=2.0, threshold=0.6, threshold_sens95=0.3, prevalence=0.5, offset=0.25)
    image = np.zeros((SIZE, SIZE), np.uint8)
    batch = [("a", Seen(image, "", ("size",))), ("b", Seen(None, "broken", ())), ("c", Seen(image, "", ("colour",)))]
    outputs = jnp.array([1.0, -1.0, 1.0, 1.0]), 4 * jnp.asarray(axes[[0, 1, 0, 0]])
    model = model_of(calibration, (index, 1.0))
    like, broken, unlike = predictions.rows(batch, [outputs], model)
    made_by = {"model": "m1", "version": __version__, "digest": "0123456789abcdef"}
    assert broken == predictions.Row("b", error="broken", **made_by)
    assert like.probability == pytest.approx(expit(1 / 2 + 0.25))
    assert unlike.probability == pytest.approx(expit(-1 / 2 + 0.25))
    assert (like.id, like.decision, like.decision_at_sens95) == ("a", "pneumonia", "pneumonia")
    assert (unlike.id, unlike.decision, unlike.decision_at_sens95) == ("c", "normal", "pneumonia")
    assert (like.threshold, like.threshold_sens95, like.error) == (0.6, 0.3, None)
    assert (like.ood_score, like.flags) == (pytest.approx(0, abs=1e-3), ("size",))
    assert (unlike.ood_score, unlike.flags) == (pytest.approx(2**0.5), ("colour", "unlike_training"))
    assert predictions.rows(batch[1:2], None, model) == [broken]


def test_a_training_picture_is_flagged():
    """The model has seen the first of two phantoms."""
    axes = np.eye(3, dtype=np.float32)
    pictures = [phantom.render(3, number, 0, 150)[0] for number in range(2)]
    seen = np.stack([known_pictures.hash_of(pictures[0])])
    index = neighbours.Index(np.arange(10).astype(str), np.zeros(10, np.uint8), axes[[0] * 10], 0.5, seen)
    calibration = Calibration(temperature=1.0, threshold=0.5, threshold_sens95=0.5, prevalence=0.5, offset=0.0)
    batch = [(str(number), Seen(picture, "", ())) for number, picture in enumerate(pictures)]
    outputs = [(jnp.zeros(2), jnp.asarray(axes[[0, 0]]))]
    first, second = predictions.rows(batch, outputs, model_of(calibration, (index, 1.0)))
    assert (first.flags, second.flags) == (("in_training",), ())


def test_members_answer_together():
    """Each logit is scaled by its member's temperature; two of three members find the image unlike theirs."""
    axes = np.eye(3, dtype=np.float32)
    members = [
        (neighbours.Index(np.arange(10).astype(str), np.zeros(10, np.uint8), axes[[0] * 10], limit), scale)
        for limit, scale in ((0.5, 1.0), (1.0, 2.0), (1.5, 4.0))
    ]
    calibration = Calibration(temperature=0.5, threshold=0.5, threshold_sens95=0.5, prevalence=0.5, offset=0.25)
    outputs = [(jnp.array([logit]), jnp.asarray(axes[[1]])) for logit in (1.0, 2.0, -8.0)]
    batch = [("a", Seen(phantom.render(3, 0, 0, 150)[0], "", ()))]
    [row] = predictions.rows(batch, outputs, model_of(calibration, *members))
    assert row.probability == pytest.approx(expit((1.0 + 1.0 - 2.0) / 3 / 0.5 + 0.25))
    assert row.ood_score == pytest.approx(2**0.5)
    assert row.flags == ("unlike_training",)
