"""The config of a command: named, or a workdir's own; with overrides; checked by the rules of every part."""

from collections.abc import Iterable

from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import data_settings
from pneumojax.evaluation import evaluation_settings, experiment_runs
from pneumojax.inference import inference_settings
from pneumojax.models import model_settings
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.config import Rules
from pneumojax.runtime.errors import UserError, unknown
from pneumojax.training import training_settings

RULES: tuple[Rules, ...] = (
    training_settings.rules,
    model_settings.rules,
    data_settings.rules,
    evaluation_settings.rules,
    inference_settings.rules,
    experiment_runs.rules,
)


def read_config(workdir: epath.Path) -> ConfigDict:
    """Read the config that the run in `workdir` was started with.

    Raises:
      UserError: there is no run.
    """
    if not workdirs.is_run(workdir):
        raise UserError(f"no run in {workdir}: give --config to start one, or the --workdir of one")
    return configs.read(workdir / workdirs.CONFIG)


def named(spec: str) -> ConfigDict:
    """Load the config that `spec` names, to run it.

    Raises:
      UserError: there is no such config, or it is the one that the others are made of.
    """
    if spec.partition(":")[0] == configs.SHARED:
        raise unknown("config", configs.SHARED, configs.shipped())
    return configs.load(spec)


def given(spec: str | None, workdir: epath.Path | None) -> ConfigDict:
    """Return the config that `spec` names, or else the workdir's own.

    Raises:
      UserError: there is neither.
    """
    if spec is not None:
        return named(spec)
    if workdir is None:
        raise UserError("give --config (such as m1), or the --workdir of a run")
    if workdirs.is_experiment(workdir):
        runs = experiment_runs.recorded(workdir)
        if not runs:
            raise UserError(f"{workdir / workdirs.EXPERIMENT} lists no run: choose another --workdir")
        return read_config(workdir / runs[0].name)
    return read_config(workdir)


def completed(
    config: ConfigDict, overrides: Iterable[str] = (), *, source: str | None = None, further_rules: Iterable[Rules] = ()
) -> ConfigDict:
    """Return the config with the `overrides` ("field=value") and the data's `source`, checked.

    Raises:
      UserError: an override or a field is wrong.
    """
    config = configs.override(config, overrides)
    if source is not None:
        config = configs.with_fields(config, {"data.source": source})
    configs.check(config, (*RULES, *further_rules))
    return config


def for_evaluation(config: ConfigDict, overrides: Iterable[str]) -> ConfigDict:
    """Return a run's config for evaluating it: without corruptions, unless the `overrides` ask for them.

    Raises:
      UserError: an override or a field is wrong, or an override names the data's source.
    """
    overrides = list(overrides)
    if any(assignment.startswith("data.source=") for assignment in overrides):
        raise UserError("--data=SOURCE names what is evaluated, not --config.data.source")
    return completed(configs.with_fields(config, {"evaluation.corruptions": False}), overrides)
