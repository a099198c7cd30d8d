"""A run's trained model, as everything that uses one takes it up."""

from typing import NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from pneumojax import calibration as calibrating
from pneumojax import checkpoint, devices, models
from pneumojax.step import create_model, init_variables


class Trained(NamedTuple):
    """A model of the run's best checkpoint.

    Attributes:
      model: the module.
      variables: its `{"params": ..., "batch_stats": ...}`.
      calibration: what its logits mean, at the prevalence that the config asks for.
      epoch: that it was saved after.
    """

    model: models.Classifier
    variables: dict
    calibration: calibrating.Calibration
    epoch: int


def load(workdir: epath.Path, config: ConfigDict, layout: devices.Layout) -> Trained:
    """The model of the run in `workdir`; raises as `checkpoint.restore_best` does. Call it within the layout's mesh."""
    model = create_model(config)
    shapes = jax.eval_shape(lambda: init_variables(model, config.model.image_size, config.seed))
    variables, facts = checkpoint.restore_best(workdir, config.model, shapes, layout)
    calibration = calibrating.Calibration(**facts["calibration"])
    if config.evaluation.prevalence:
        calibration = calibrating.at_prevalence(calibration, config.evaluation.prevalence)
    return Trained(model, variables, calibration, facts["epoch"])
