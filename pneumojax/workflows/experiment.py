"""`--mode=experiment`: train every run of an experiment, each in its own workdir, and compare them."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.data.source import Record, Source, Split, split_of
from pneumojax.evaluation import calibration, comparison, results
from pneumojax.evaluation.experiment_runs import Run, recorded, runs
from pneumojax.reports import experiment_report, experiment_tables
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_log
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import write_whole
from pneumojax.workflows import experiment_estimate, run_config, run_folder, trained_models
from pneumojax.workflows.evaluate import evaluate_run, records_of, show
from pneumojax.workflows.prepare import open_own
from pneumojax.workflows.train import train_and_evaluate

_OF_EACH_RUN = {  # and by which field of the experiment
    "seed": "experiment.seeds",
    "data.fold": "experiment.folds",
    "evaluation.corruptions": "experiment.corruptions",
}


def run_experiment(config: ConfigDict, overrides: Sequence[str], workdir: epath.Path) -> None:
    """Train the runs of the config's `experiment` that are not trained yet, then write tables and figures.

    With `experiment.dry_run`, list the runs with an estimate instead, and write nothing.

    Stopped, it continues with the same command. Each run has a folder in the workdir, and the `overrides`
    ("field=value") hold for each. More seeds, folds, recipes or models go into the same workdir, and its tables and
    figures are then of all that it holds.

    Raises:
      UserError: a recipe or a setting is wrong, or the workdir holds something else.
    """
    planned = runs(config)
    _, source = open_own(config)
    finished = [one for one in recorded(workdir) if (workdir / one.name / workdirs.REPORT).exists()]
    every = list(dict.fromkeys(finished + planned))
    workdirs.refuse_links(workdir, [one.name for one in every])
    for one in finished:  # the workdir may be a stranger's, and a config file is a program
        if one not in planned and one.config not in configs.shipped():
            raise UserError(f"{workdir} has runs of {one.config}: add it to --config.experiment.models")
    own_configs = {one: config_of(one, source.location, overrides) for one in every}
    _refuse_other(workdir, own_configs, source)
    if config.experiment.dry_run:
        run_log.console.print(experiment_estimate.table(own_configs, set(finished), source))
        return
    write_whole(workdir / workdirs.EXPERIMENT, json.dumps({"runs": [one.fields for one in every]}, indent=2) + "\n")
    for number, one in enumerate(planned, 1):
        run_log.console.print(f"Run {number} of {len(planned)}: {one.name}")
        train_and_evaluate(own_configs[one], workdir / one.name)
    found = [comparison.read(workdir / one.name, one) for one in every]
    tables = experiment_tables.section(found)
    run_log.console.print(tables)
    write_whole(workdir / workdirs.EXPERIMENT_TABLES, tables)
    write_whole(workdir / workdirs.REPORT, experiment_report.render(found, source.notice))
    run_log.console.print(f"Written: {workdir / workdirs.EXPERIMENT_TABLES}")
    run_log.console.print(f"Report: {workdir / workdirs.REPORT}")


def config_of(run: Run, source: str, overrides: Iterable[str]) -> ConfigDict:
    """Return the run's own config: its recipe's, with the experiment's `overrides` ("field=value"), then the run's.

    Raises:
      UserError: there is no such model, recipe or field, or a value is out of range.
    """
    recipe, *changes = run.recipe.split("+")
    for change in changes:
        if "=" not in change:
            raise UserError(f"in recipe {run.recipe!r}, {change!r} is no field=value")
        if change.partition("=")[0] in configs.LOCAL:
            raise UserError(f"{change.partition('=')[0]} is no part of a recipe: set it as --config.{change}")
    assignments = [*overrides, *changes]
    for field, plan in _OF_EACH_RUN.items():
        if any(assignment.startswith(f"{field}=") for assignment in assignments):
            raise UserError(f"an experiment sets {field} in each run: give --config.{plan} instead")
    config = configs.override(run_config.named(f"{run.config}:{recipe}"), assignments)
    own = {"seed": run.seed, "data.source": source, "data.fold": run.fold or 0}
    if run.site is not None:
        own |= {"data.leave_out_site": run.site, "experiment.leave_one_site_out": False}
    own["evaluation.corruptions"] = config.experiment.corruptions
    return run_config.completed(configs.with_fields(config, own))


def evaluate_experiment(overrides: Sequence[str], workdir: epath.Path, data: str | None) -> None:
    """Evaluate every run of an experiment, and all of them as one ensemble, on the source `data` or on the runs' own.

    The `overrides` ("field=value") hold for every run. The ensemble's files go into the experiment's own evaluation/,
    see `comparison.ensemble`.

    Raises:
      UserError: the runs were not trained on the same images, one cannot be evaluated, or a site is named: its file is
        of the ensemble, not of each run.
    """
    folders = trained_models.ensemble_folders(workdir)
    stems: list[list[str]] = []  # of each run: one may have another name for this source, see `run_folder.name_of`
    prevalence = 0.0
    records: Mapping[str, Record] = {}
    for folder in folders:
        config = run_config.for_evaluation(run_config.read_config(folder), overrides)
        if config.site:
            raise UserError(
                f"a site file is of the ensemble, not of its runs: use --model={workdir} and another --workdir"
            )
        prevalence = config.evaluation.prevalence
        run_log.console.print(f"Run: {folder.name}")
        stems.append(evaluate_run(config, folder, data))
        records = records or records_of(config, folder, data)
    evaluations = trained_models.val_evaluations(workdir, folders)
    run_log.console.print(f"Ensemble of {len(folders)} runs:")
    for own_stems in zip(*stems, strict=True):
        stem = own_stems[0]
        members = [{stem: one[own], "val": one["val"]} for one, own in zip(evaluations, own_stems, strict=True)]
        split = split_of(stem, [records[str(id)] for id in members[0][stem]["ids"]], _no_images)
        _evaluate_ensemble(workdir, split, members, [folder.name for folder in folders], prevalence)
    run_log.console.print(f"Written: {workdir / workdirs.EVALUATION}")


def _evaluate_ensemble(
    workdir: epath.Path, split: Split, evaluations: Sequence[dict], names: Sequence[str], prevalence: float
) -> None:
    _, odds, fitted = comparison.ensemble(evaluations, split.name)
    fitted = calibration.at_prevalence(fitted, prevalence)
    one = evaluations[0][split.name]
    stem = run_folder.name_of(workdir, workdirs.EVALUATION, split.name, one["source"])
    origin = {name: one[name] for name in ("source", "notice", "known_images") if name in one}
    origin |= {"epoch": None, "members": list(names)}
    show(stem, results.write(workdir, stem, split, odds, fitted, origin))


def _no_images(indices: np.ndarray) -> np.ndarray:
    raise NotImplementedError("an ensemble's scores come from its members, not from images")


def _refuse_other(workdir: epath.Path, own_configs: Mapping[Run, ConfigDict], source: Source) -> None:
    """Check, before anything is written, that the workdir is free or holds this experiment on these images."""
    if workdirs.is_run(workdir):
        raise UserError(f"{workdir} holds one run: choose another --workdir for an experiment")
    if not workdirs.is_experiment(workdir) and workdirs.names_in(workdir):
        raise UserError(f"{workdir} is not empty and holds no experiment: choose another --workdir")
    for one in recorded(workdir):
        if workdirs.is_run(workdir / one.name):
            there, here = run_config.read_config(workdir / one.name).data.source, source.location
            if there != here and not run_folder.has_images_of(workdir / one.name, source):
                raise UserError(f"{workdir} holds an experiment on {there}: choose another --workdir for {here}")
    for one, own in own_configs.items():
        if workdirs.is_run(workdir / one.name):
            run_folder.refuse_other_run(workdir / one.name, own, source)
