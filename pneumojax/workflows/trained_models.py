"""Trained models wherever they are: shipped with the package, exported, a run's, or those of an experiment's runs."""

from collections.abc import Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import comparison, experiment_runs, neighbours, results
from pneumojax.inference import bundle, site_file, trained_model
from pneumojax.inference.restore import load
from pneumojax.inference.trained_model import Member, TrainedModel
from pneumojax.models.architectures import HEAD_UNITS, Block, table_of
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError, unknown
from pneumojax.runtime.files import expanded, read_text
from pneumojax.runtime.sharding import Layout
from pneumojax.workflows import run_config, run_folder
from pneumojax.workflows.run_config import read_config


def ensemble_folders(workdir: epath.Path) -> list[epath.Path]:
    """Return the workdirs of an experiment's runs, which can form an ensemble.

    Raises:
      UserError: the runs were not trained on the same images.
    """
    folders = [workdir / run.name for run in experiment_runs.recorded(workdir)]
    workdirs.refuse_links(workdir, [folder.name for folder in folders])
    tables = {read_text(folder / workdirs.SPLITS) for folder in folders if folder.exists()}
    if not tables:
        raise UserError(f"no run in {workdir} is trained: run its --mode=experiment first")
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


def locate(model: str) -> epath.Path:
    """Return where the model is that `--model` names: NAME of a shipped one, or an exported folder or a workdir.

    Raises:
      UserError: there is none.
    """
    folder = bundle.shipped().get(model) or expanded(model)
    if bundle.is_bundle(folder) or workdirs.is_run(folder) or workdirs.is_experiment(folder):
        return folder
    if folder.exists():
        raise UserError(f"no model in {model}: give an exported folder, or the workdir of a run")
    raise unknown("model", model, [*bundle.shipped(), "a folder"])


def config_of(folder: epath.Path) -> ConfigDict:
    """Return the config with which the model in the folder is used: a run's own; of an exported one, the defaults.

    Raises:
      UserError: there is no model.
    """
    if not bundle.is_bundle(folder):
        return run_config.given(None, folder)
    description = bundle.describe(folder)
    network = description["networks"][0]
    blocks = table_of(Block(**block) for block in network["blocks"])
    fields = {
        "name": description["name"],
        "blocks": blocks,
        "dtype": network["dtype"],
        "equalize": network.get("equalize", False),
    }
    fields |= {"image_size": description["preprocessing"]["image_size"]}
    config = configs.load(f"{configs.SHARED}:recommended")
    return configs.with_fields(config, {f"model.{name}": value for name, value in fields.items()})


def refuse_other_model(config: ConfigDict, folder: epath.Path) -> None:
    """Raise UserError if the config describes another network than that in the folder."""
    changed = [line for line in configs.differences(config, config_of(folder)) if line.startswith("model.")]
    if changed:
        raise UserError(f"the model in {folder} is trained as it is ({'; '.join(changed)}): leave that out")


def load_alone(model: str) -> TrainedModel:
    """Load the model that `locate` finds, calibrated as on val, on this process's own devices.

    Raises:
      UserError: as `locate` and `load_model`.
    """
    folder = locate(model)
    workdirs.refuse_links(folder)
    return load_here(config_of(folder), folder)


def load_here(config: ConfigDict, folder: epath.Path, workdir: epath.Path | None = None) -> TrainedModel:
    """Load the model as `load_model` does, into this process's memory."""
    layout = sharding.layout(jax.local_devices())
    with jax.set_mesh(layout.mesh):
        loaded = load_model(config, folder, layout, workdir)
    members = [member._replace(variables=jax.device_get(member.variables)) for member in loaded.members]
    return loaded._replace(members=members)


def load_model(
    config: ConfigDict, folder: epath.Path, layout: Layout, workdir: epath.Path | None = None
) -> TrainedModel:
    """Load the model in the folder; an experiment's runs form an ensemble. Call this within the layout's mesh.

    It is set up for the config's site, whose file lies in the workdir or in the model's folder. Probabilities hold at
    the config's prevalence, or at the site's or val's.

    Raises:
      UserError: there is none, one is damaged, or the models of an experiment do not form an ensemble; or the site has
        no file, or one of another model.
    """
    model = _as_trained(config, folder, layout)
    if config.site:
        path = site_file.found(config.site, [workdir, folder] if workdir else [folder])
        model = site_file.applied(model, site_file.read(path), str(path))
    return model._replace(calibration=calibrations.at_prevalence(model.calibration, config.evaluation.prevalence))


def _as_trained(config: ConfigDict, folder: epath.Path, layout: Layout) -> TrainedModel:
    if bundle.is_bundle(folder):
        return bundle.read(folder)
    if workdirs.is_experiment(folder):
        return _ensemble(config, folder, layout)
    run_folder.require_trained(folder)
    index = neighbours.read(folder, HEAD_UNITS)
    trained = load(folder, config, layout)
    members = [Member(trained.model, trained.variables, index)]
    return trained_model.of_members(config.model.name, members, trained.calibration, config.model.image_size)


def _ensemble(config: ConfigDict, workdir: epath.Path, layout: Layout) -> TrainedModel:
    folders = ensemble_folders(workdir)
    fitted = comparison.ensemble(val_evaluations(workdir, folders), "val")[2]
    own = [configs.with_fields(config, {"model": read_config(folder).model}) for folder in folders]
    if len({one.model.image_size for one in own}) > 1:
        raise UserError(f"the runs in {workdir} take images of different sizes: give the --workdir of one of them")
    every = [load(folder, one, layout) for folder, one in zip(folders, own, strict=True)]
    members = [
        Member(trained.model, trained.variables, neighbours.read(folder, HEAD_UNITS), trained.calibration.temperature)
        for folder, trained in zip(folders, every, strict=True)
    ]
    name = "+".join(one.model.name for one in own)
    return trained_model.of_members(name, members, fitted, own[0].model.image_size)
