"""`--mode=experiment`: trains every run of an experiment, each in its own workdir, and tells what they show."""

import json
from collections.abc import Iterable, Mapping, Sequence

from etils import epath
from ml_collections import ConfigDict

from pneumojax import cache, calibration, curate, evaluate, log, report, run, workdirs
from pneumojax import config as configs
from pneumojax.data.readers import Split
from pneumojax.errors import UserError
from pneumojax.experiment import page, tables
from pneumojax.experiment.plan import FILE, Run, is_experiment, runs
from pneumojax.experiment.results import ensemble, gather
from pneumojax.files import UNFINISHED, write_whole

SECTION = "experiment.md"


def experiment_mode(config: ConfigDict, overrides: Sequence[str], workdir: epath.Path) -> None:
    """Trains what is not trained yet of the config's `experiment`, then writes tables and figures.

    Stopped, it goes on with the same command. More seeds, folds, recipes or models go into the same folder, and its
    tables and figures are then of all that it holds.

    Args:
      config: with what is asked for.
      overrides: of the command line, as "field=value", which go for every run.
      workdir: of the experiment; each run has a folder in it.

    Raises:
      UserError: a recipe or a setting is wrong, or the workdir holds something else.
    """
    planned = runs(config)
    source = curate.open_own(config)
    every = list(dict.fromkeys([*_finished(workdir), *planned]))
    configs_of = {one: config_of(one, source.location, overrides) for one in every}
    _refuse_other(workdir, configs_of, source.location)
    write_whole(workdir / FILE, json.dumps({"runs": [one._asdict() for one in every]}, indent=2) + "\n")
    for number, one in enumerate(planned, 1):
        log.console.print(f"Run {number} of {len(planned)}: {one.name}")
        run.train_mode(configs_of[one], workdir / one.name)
    results = gather(workdir, every)
    section = tables.section(results)
    log.console.print(section)
    write_whole(workdir / SECTION, section)
    write_whole(workdir / page.FILE, page.render(results, source.notice))
    log.console.print(f"Written: {workdir / SECTION}, {workdir / page.FILE}")


def config_of(run: Run, source: str, overrides: Iterable[str]) -> ConfigDict:
    """The run's own config: its recipe's, with the experiment's `overrides` ("field=value"), then the run's.

    Raises:
      UserError: there is no such model, recipe or field, or a value is out of range.
    """
    recipe, *changes = run.recipe.split("+")
    config = configs.load(f"{run.config}:{recipe}")
    for assignment in [*overrides, *changes]:
        field, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"in recipe {run.recipe!r}, {assignment!r} is no field=value")
        configs.override(config, field, value)
    config.seed, config.data.source, config.data.fold = run.seed, source, run.fold or 0
    config.evaluation.shifts = config.experiment.shifts
    configs.check(config)
    return config


def evaluate_experiment(overrides: Sequence[str], workdir: epath.Path, data: str | None) -> None:
    """Evaluates every run of an experiment on another source, or its own, and all of them as one ensemble.

    The ensemble's files go into the experiment's own evaluation/, see `results.ensemble`.

    Args:
      overrides: of the command line, as "field=value", which go for every run.
      workdir: of the experiment.
      data: the source; None for the runs' own.

    Raises:
      UserError: the runs were not trained on the same images, or one cannot be evaluated.
    """
    folders = [workdir / one.name for one in _members(workdir)]
    tables = {(folder / workdirs.SPLITS_FILE).read_text() for folder in folders if folder.exists()}
    if len(tables) != 1:
        raise UserError(
            f"the runs in {workdir} were not trained on the same images, as folds are not: an ensemble is of runs that"
            " differ in model, recipe or seed alone"
        )
    for folder in folders:
        config = workdirs.config_for("evaluate", None, folder, data, overrides)
        cache.keep_compiled(config.data.cache_dir)
        log.console.print(f"Run: {folder.name}")
        stems = run.evaluate_mode(config, folder, data)
    evaluations = [evaluate.read(folder) for folder in folders]
    log.console.print(f"Ensemble of {len(folders)} runs:")
    for stem in stems:
        labels, odds, fitted = ensemble(evaluations, stem)
        if config.evaluation.prevalence:
            fitted = calibration.at_prevalence(fitted, config.evaluation.prevalence)
        one = evaluations[0][stem]
        evaluate.refuse_other_source(workdir, stem, one["source"])
        split = Split(stem, one["ids"], labels, read=None)
        told = {name: one[name] for name in ("source", "notice") if name in one}
        told |= {"epoch": None, "members": [folder.name for folder in folders]}
        log.console.print(evaluate.line(stem, evaluate.write(workdir, stem, split, odds, fitted, told)))
    log.console.print(f"Written: {workdir / evaluate.FOLDER}")


def _finished(workdir: epath.Path) -> list[Run]:
    """The runs of an experiment that was there before, those that came to their end."""
    before = _members(workdir) if is_experiment(workdir) else []
    return [one for one in before if (workdir / one.name / report.FILE).exists()]


def _members(workdir: epath.Path) -> list[Run]:
    """The runs in an experiment's workdir."""
    path = workdir / FILE
    try:
        return [Run(**told) for told in json.loads(path.read_text())["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not tell of runs: {error}") from None


def _refuse_other(workdir: epath.Path, every: Mapping[Run, ConfigDict], location: str) -> None:
    """Before anything is written: raises UserError where the workdir holds something else, or runs of other images."""
    if (workdir / configs.FILE).exists():
        raise UserError(f"{workdir} holds one run: choose another --workdir for an experiment")
    there = [path.name for path in workdir.iterdir()] if workdir.exists() else []
    if not is_experiment(workdir) and any(not name.endswith(UNFINISHED) for name in there):
        raise UserError(f"{workdir} is not empty and holds no experiment: choose another --workdir")
    for one in _members(workdir) if is_experiment(workdir) else ():
        if (workdir / one.name / configs.FILE).exists():
            there = workdirs.read_config(workdir / one.name).data.source
            if there != location:
                raise UserError(f"{workdir} holds an experiment on {there}: choose another --workdir for {location}")
    for one, own in every.items():
        if (workdir / one.name / configs.FILE).exists():
            workdirs.refuse_other_settings(workdir / one.name, own)
