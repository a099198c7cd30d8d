"""What each `--mode` is: one table, from a command to what does its work.

Each entry imports what it needs when it runs: processes that read images import this module too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from etils import epath

from pneumojax.runtime import cache, distributed
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import ExitStatus, UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


class Command(NamedTuple):
    """What the command line asks for."""

    spec: str | None = None  # the flag --config
    workdir: epath.Path | None = None
    model: str | None = None  # a trained one, see `trained_models.locate`
    data: str | None = None
    overrides: Sequence[str] = ()  # of the config, as "field=value"
    job: dict[str, Any] | None = None  # the arguments of `distributed.join`; None where this process is the whole job
    join_seconds: int = distributed.JOIN_S  # how long to wait for the job's other processes


class Mode(NamedTuple):
    """One `--mode`."""

    summary: str  # what it does, for the help
    usage: str  # its flags, for the help
    run: Callable[[Command], int | None]  # does it, and returns the exit status; None is `ExitStatus.DONE`
    shared: bool = False  # whether several processes of a job can share it
    takes_model: bool = False  # whether --model can stand for the --workdir of a run


def run(mode: str, command: Command) -> int:
    """Do what the command line asks for, and return the exit status.

    Raises:
      UserError: it cannot be done; the message says why.
    """
    entry = MODES[mode]
    if command.workdir is not None:
        workdirs.refuse_links(command.workdir)
    if command.model is not None:
        command = _with_model(mode, command)
    if mode == "evaluate" and command.spec is None and workdirs.is_experiment(command.workdir):
        entry = _EVALUATE_EXPERIMENT
    if command.job is not None and not entry.shared:
        of_what = " of an experiment" if entry is _EVALUATE_EXPERIMENT else ""
        raise UserError(f"--mode={mode}{of_what} is for one process: start it as one")
    return entry.run(command) or ExitStatus.DONE


def _with_model(mode: str, command: Command) -> Command:
    """Return the command that uses a trained model; where it is a run's, and no other workdir is given, in its workdir.

    Raises:
      UserError: there is no such model, or this mode takes none.
    """
    from pneumojax.inference.bundle import is_bundle
    from pneumojax.workflows import trained_models

    assert command.model is not None
    if not MODES[mode].takes_model:
        named = ", ".join(name for name, entry in MODES.items() if entry.takes_model)
        raise UserError(f"--mode={mode} takes no --model: it is for {named}")
    if command.spec is not None:
        raise UserError("a trained model has its own config: give --model or --config, not both")
    folder = trained_models.locate(command.model)
    if not is_bundle(folder):
        workdirs.refuse_links(folder)
    if is_bundle(folder) or command.workdir not in (None, folder):
        workdir = command.workdir or workdirs.default_of(folder)
        workdirs.refuse_links(workdir)
        if mode == "evaluate" and workdirs.is_run(workdir):
            raise UserError(f"{workdir} has the evaluations of its own run: choose another --workdir for --model")
        return command._replace(workdir=workdir, model=str(folder))
    return command._replace(workdir=folder, model=None)


@contextmanager
def _computing(config: "ConfigDict", command: Command) -> Iterator[None]:
    """Prepare this process to compute with JAX, as one of the job's; wait for the others at the end."""
    from pneumojax.runtime import sharding

    if config.deterministic:
        sharding.compute_deterministically()
    if command.job is not None:
        from pneumojax.runtime import run_log

        distributed.join(command.job, command.join_seconds)
        run_log.console.quiet = not distributed.first()
    sharding.require_devices()
    # The first process alone adds to the cache; GPUs that do not find what it finds wait for it to compile, in vain.
    if distributed.all_see(cache.folder(config.data.cache_dir)):
        cache.keep_compiled(config.data.cache_dir)
    yield
    distributed.meet()  # when the first has written the report; until then signals are handled


def _checked(command: Command, config: "ConfigDict", source: str | None = None) -> "ConfigDict":
    """Return the config with the command's overrides and the data's `source`, checked by the rules of every part."""
    from pneumojax.config_rules import FURTHER
    from pneumojax.workflows import run_config

    return run_config.completed(config, command.overrides, source=source, further_rules=FURTHER)


def _workdir(command: Command, start: str, config: "ConfigDict") -> epath.Path:
    """Return the command's workdir; by default one whose name begins with `start`."""
    from pneumojax.data.sources.sites import name_of

    if command.workdir is not None:
        return command.workdir
    workdir = epath.Path(f"runs/{start}-{name_of(config.data.source)}")
    workdirs.refuse_links(workdir)
    return workdir


def _run_workdir(command: Command, config: "ConfigDict") -> epath.Path:
    return _workdir(command, f"{config.name}-{config.recipe}", config)


def _run_config(command: Command, source: str | None = None) -> "ConfigDict":
    from pneumojax.workflows import run_config

    return _checked(command, run_config.given(command.spec, command.workdir), source)


def _model_config(command: Command) -> "ConfigDict":
    """Return the config for using a trained model: that of --model, or else of the run."""
    if command.model is None:
        return _run_config(command)
    from pneumojax.workflows import trained_models

    folder = epath.Path(command.model)
    config = _checked(command, trained_models.config_of(folder))
    trained_models.refuse_other_model(config, folder)
    return config


def _model_folder(command: Command) -> epath.Path | None:
    return None if command.model is None else epath.Path(command.model)


def _train(command: Command) -> None:
    config = _run_config(command, command.data)
    with _computing(config, command):
        from pneumojax.workflows.train import train_and_evaluate

        train_and_evaluate(config, _run_workdir(command, config))


def _evaluate(command: Command) -> None:
    from pneumojax.workflows import run_config

    if command.model is not None:
        config = _model_config(command)
        with _computing(config, command):
            from pneumojax.workflows.evaluate import evaluate_model

            evaluate_model(config, epath.Path(command.model), _run_workdir(command, config), command.data)
        return
    config = run_config.for_evaluation(run_config.given(command.spec, command.workdir), command.overrides)
    with _computing(config, command):
        from pneumojax.workflows.evaluate import evaluate_run

        evaluate_run(config, _run_workdir(command, config), command.data)


def _evaluate_experiment(command: Command) -> None:
    from pneumojax.workflows import run_config
    from pneumojax.workflows.experiment import evaluate_experiment

    assert command.workdir is not None
    config = run_config.for_evaluation(run_config.given(None, command.workdir), command.overrides)
    with _computing(config, command):
        evaluate_experiment(command.overrides, command.workdir, command.data)


def _predict(command: Command) -> int:
    config = _model_config(command)
    with _computing(config, command):
        from pneumojax.workflows.predict import predict_images

        return predict_images(config, _run_workdir(command, config), command.data, model=_model_folder(command))


def _explain(command: Command) -> int:
    config = _model_config(command)
    with _computing(config, command):
        from pneumojax.workflows.explain import explain_images

        return explain_images(config, _run_workdir(command, config), command.data, model=_model_folder(command))


def _export(command: Command) -> None:
    config = _model_config(command)
    with _computing(config, command):
        from pneumojax.workflows.export import export_model

        export_model(config, _run_workdir(command, config), command.data, model=_model_folder(command))


def _pacs(command: Command) -> int:
    config = _model_config(command)
    with _computing(config, command):
        try:
            from pneumojax.pacs.service import run_pacs
        except ImportError as error:
            raise UserError(f"--mode=pacs needs {error.name}: install PneumoJAX with the extra [dicom]") from None
        from pneumojax.api import load
        from pneumojax.inference import site_file

        workdir = _run_workdir(command, config)
        site = site_file.found(config.site, [workdir, _model_folder(command) or workdir]) if config.site else None
        model = load(command.model or workdir, prevalence=config.evaluation.prevalence or None, site=site)
        return run_pacs(config, workdir, model)


def _serve(command: Command) -> None:
    config = _model_config(command)
    if command.data is not None:
        raise UserError("--mode=serve takes no --data: films are sent to it")
    with _computing(config, command):
        from pneumojax.serving.run_server import serve

        workdir = _run_workdir(command, config)
        serve(config, _model_folder(command) or workdir, workdir)


def _calibrate(command: Command) -> None:
    config = _model_config(command)
    with _computing(config, command):
        from pneumojax.workflows.calibrate import calibrate_site

        calibrate_site(config, _run_workdir(command, config), command.data, model=_model_folder(command))


def _experiment(command: Command) -> None:
    from pneumojax.runtime import config as configs
    from pneumojax.workflows import run_config

    models = command.spec.partition(":")[0] if command.spec else ",".join(configs.shipped())
    config = configs.with_fields(run_config.named(command.spec or "m1"), {"experiment.models": models})
    config = _checked(command, config, command.data)
    with _computing(config, command):
        from pneumojax.workflows.experiment import run_experiment

        run_experiment(config, command.overrides, _workdir(command, "experiment", config))


def _images_config(command: Command) -> "ConfigDict":
    """Return the config where it matters for images alone: there, m1, m2 and m3 agree."""
    from pneumojax.workflows import run_config

    known = command.spec is not None or (command.workdir is not None and workdirs.is_run(command.workdir))
    return _checked(command, run_config.given(command.spec if known else "m1", command.workdir), command.data)


def _audit(command: Command) -> int:
    if command.data is None:
        raise UserError("give --data: what is to be audited")
    from pneumojax.workflows.audit import audit_source

    config = _images_config(command)
    return audit_source(config, _workdir(command, "audit", config))


def _prepare(command: Command) -> None:
    from pneumojax.workflows.prepare import prepare_source

    prepare_source(_images_config(command))


def _benchmark(command: Command) -> None:
    from pneumojax.benchmark import plan
    from pneumojax.benchmark.run_benchmark import run_benchmark
    from pneumojax.runtime import config as configs
    from pneumojax.workflows import run_config

    config = run_config.named(command.spec or "m1")
    if command.spec is None:
        config = configs.with_fields(config, {"benchmark.models": ",".join(configs.shipped())})
    config = _checked(command, config, command.data)
    if config.deterministic:
        from pneumojax.runtime import sharding

        sharding.compute_deterministically()
    run_benchmark(config, command.workdir or epath.Path("-".join(["runs/benchmark", *plan.plan(config).models])))


MODES = {
    "train": Mode(
        "train on phantoms or your images, evaluate, and write a report", "--config=m1 [--data=FOLDER]", _train, True
    ),
    "evaluate": Mode(
        "evaluate a run or a model, on its own or other images",
        "--workdir=RUN|--model=MODEL [--data=FOLDER]",
        _evaluate,
        True,
        takes_model=True,
    ),
    "predict": Mode(
        "predict images without labels", "--workdir=RUN|--model=MODEL --data=FILES", _predict, True, takes_model=True
    ),
    "explain": Mode(
        "draw where predictions come from", "--workdir=RUN|--model=MODEL [--data=FILES]", _explain, takes_model=True
    ),
    "calibrate": Mode(
        "set up a trained model for a hospital, or see what has moved there",
        "--workdir=RUN|--model=MODEL --data=FILMS",
        _calibrate,
        takes_model=True,
    ),
    "export": Mode(
        "write a trained model into a folder that needs no run",
        "--workdir=RUN|--model=MODEL [--data=FILES]",
        _export,
        takes_model=True,
    ),
    "pacs": Mode(
        "predict films from a PACS, and store reports in it",
        "--workdir=RUN|--model=MODEL --config.pacs.listen=PORT",
        _pacs,
        takes_model=True,
    ),
    "serve": Mode(
        "answer films that are sent to a local web server", "--workdir=RUN|--model=MODEL", _serve, takes_model=True
    ),
    "experiment": Mode("train models and recipes on folds, and compare them", "--data=FOLDER", _experiment),
    "audit": Mode("look for what is wrong with images and splits", "--data=FOLDER", _audit),
    "prepare": Mode("write the images into the cache that training reads", "--data=FOLDER", _prepare),
    "benchmark": Mode("measure how fast all of it is on this machine", "[--config=m1]", _benchmark),
}
_EVALUATE_EXPERIMENT = MODES["evaluate"]._replace(run=_evaluate_experiment, shared=False)
