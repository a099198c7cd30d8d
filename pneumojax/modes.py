"""What each `--mode` is: from flags to a config, and to what does the work."""

from collections.abc import Sequence

from etils import epath

from pneumojax import cache, curate, log, processes, workdirs
from pneumojax.errors import UserError
from pneumojax.experiment.plan import is_experiment

JOINT = ("train", "evaluate", "predict")  # that a job of several processes can share


def run(
    mode: str,
    *,
    spec: str | None,
    workdir: epath.Path | None,
    data: str | None,
    overrides: Sequence[str],
    job: dict | None,
    join_seconds: int,
) -> int:
    """Does what the command line asks for, and returns the exit status. What computes is imported where it is needed.

    Args:
      mode, spec, workdir, data: the flags --mode, --config, --workdir and --data.
      overrides: of the config, as "field=value".
      job: what `processes.join` is to be given; None where there is one process.
      join_seconds: how long to wait for the others.

    Raises:
      UserError: what is asked for cannot be done.
    """
    of_experiment = mode == "evaluate" and spec is None and is_experiment(workdir)
    if job is not None and (mode not in JOINT or of_experiment):
        raise UserError(f"--mode={mode} {'of an experiment ' * of_experiment}is for one process: start it as one")
    if mode == "audit" and data is None:
        raise UserError("give --data: what is to be audited")
    if of_experiment:
        from pneumojax.experiment.mode import evaluate_experiment

        evaluate_experiment(overrides, workdir, data)
        return 0
    config = workdirs.config_for(mode, spec, workdir, data, overrides)
    workdir = workdir or workdirs.default(mode, config)
    if mode == "audit":
        return curate.audit_mode(config, workdir)
    if mode == "prepare":
        curate.prepare_mode(config)
        return 0
    if config.deterministic:
        from pneumojax import devices

        devices.compute_equal_bits()
    if mode == "benchmark":
        from pneumojax.benchmark.mode import benchmark_mode

        benchmark_mode(config, workdir)
        return 0
    if job is not None:
        processes.join(job, join_seconds)
        log.console.quiet = not processes.first()
    # The first process alone adds to it; GPUs that do not find what it finds wait for it to compile, in vain.
    if processes.all_see(cache.folder(config.data.cache_dir)):
        cache.keep_compiled(config.data.cache_dir)
    status = _compute(mode, config, workdir, data, overrides)
    processes.meet()  # when the first has written the report; signals are heeded until then
    return status


def _compute(mode, config, workdir, data, overrides) -> int:
    if mode == "predict":
        from pneumojax.predict import predict_mode

        return predict_mode(config, workdir, data)
    if mode == "explain":
        from pneumojax.explanations import explain_mode

        explain_mode(config, workdir, data)
    elif mode == "experiment":
        from pneumojax.experiment.mode import experiment_mode

        experiment_mode(config, overrides, workdir)
    else:
        from pneumojax import run

        if mode == "train":
            run.train_mode(config, workdir)
        else:
            run.evaluate_mode(config, workdir, data)
    return 0
