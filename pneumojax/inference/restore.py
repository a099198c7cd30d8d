"""A run's trained model, restored for use."""

from typing import NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import operating_points
from pneumojax.models.classifier import Classifier, Variables, init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import sharding


class Trained(NamedTuple):
    """The model of a run's best checkpoint.

    Attributes:
      model: the module.
      variables: its `{"params": ..., "batch_stats": ...}`.
      calibration: of its logits, as fitted on val, or on the groups of val.
      epoch: the epoch after which it was saved.
    """

    model: Classifier
    variables: Variables
    calibration: calibrations.Calibration
    epoch: int


def load(workdir: epath.Path, config: ConfigDict, layout: sharding.Layout) -> Trained:
    """Load the model of the run in `workdir`. Call this within the layout's mesh.

    Raises:
      UserError: as `checkpoint.restore_best`.
    """
    from pneumojax.training import checkpoint  # not at the top: it imports Orbax, which exported models do without

    model = create_model(config)
    shapes = jax.eval_shape(lambda: init_variables(model, config.model.image_size, config.seed))
    variables, facts = checkpoint.restore_best(workdir, config.model, shapes, layout)
    chosen = operating_points.read(workdir, facts["epoch"])
    calibration = chosen.calibration if chosen else calibrations.stored(facts["calibration"])
    return Trained(model, variables, calibration, facts["epoch"])
