"""The trained model of a run's workdir, or those of an experiment's, which answer together."""

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import comparison, experiment_runs, neighbours, results
from pneumojax.inference.predictions import Member
from pneumojax.inference.restore import Trained, load
from pneumojax.models.architectures import HEAD_UNITS
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_text
from pneumojax.runtime.sharding import Layout
from pneumojax.workflows import run_folder
from pneumojax.workflows.run_config import read_config


class Models(NamedTuple):
    """One model, or the members of an ensemble.

    Attributes:
      trained: the models.
      members: what turns their outputs into scores.
      calibration: of the mean log-odds.
    """

    trained: Sequence[Trained]
    members: Sequence[Member]
    calibration: calibrations.Calibration


def ensemble_folders(workdir: epath.Path) -> list[epath.Path]:
    """Return the workdirs of an experiment's runs, which can form an ensemble.

    Raises:
      UserError: the runs were not trained on the same images.
    """
    folders = [workdir / run.name for run in experiment_runs.recorded(workdir)]
    workdirs.refuse_links(workdir, [folder.name for folder in folders])
    tables = {read_text(folder / workdirs.SPLITS) for folder in folders if folder.exists()}
    if len(tables) != 1:
        raise UserError(
            f"the runs in {workdir} were not trained on the same images (folds are not): an ensemble is of runs that"
            " differ only in model, recipe or seed"
        )
    return folders


def val_evaluations(workdir: epath.Path, folders: Sequence[epath.Path]) -> list[dict[str, results.Evaluation]]:
    """Read the evaluations of each run of an experiment.

    Raises:
      UserError: one has none of val, by which an ensemble is calibrated.
    """
    evaluations = [results.read(folder) for folder in folders]
    if unmeasured := [folder for folder, found in zip(folders, evaluations, strict=True) if "val" not in found]:
        raise UserError(f"{unmeasured[0]} has no evaluation of val: run --mode=evaluate --workdir={workdir} first")
    return evaluations


def load_models(config: ConfigDict, workdir: epath.Path, layout: Layout) -> Models:
    """Load the model of a run, or every model of an experiment. Call this within the layout's mesh.

    Raises:
      UserError: there is none, one is damaged, or the models of an experiment do not form an ensemble.
    """
    if not workdirs.is_experiment(workdir):
        run_folder.require_trained(workdir)
        index = neighbours.read(workdir, HEAD_UNITS)
        trained = load(workdir, config, layout)
        return Models([trained], [Member(index, 1.0)], trained.calibration)
    folders = ensemble_folders(workdir)
    fitted = comparison.ensemble(val_evaluations(workdir, folders), "val")[2]
    if config.evaluation.prevalence:
        fitted = calibrations.at_prevalence(fitted, config.evaluation.prevalence)
    own = [configs.with_fields(config, {"model": read_config(folder).model}) for folder in folders]
    if len({one.model.image_size for one in own}) > 1:
        raise UserError(f"the runs in {workdir} take images of different sizes: give the --workdir of one of them")
    every = [load(folder, one, layout) for folder, one in zip(folders, own, strict=True)]
    members = [
        Member(neighbours.read(folder, HEAD_UNITS), trained.calibration.temperature)
        for folder, trained in zip(folders, every, strict=True)
    ]
    return Models(every, members, fitted)
