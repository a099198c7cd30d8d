"""Trains and evaluates CNNs that tell pneumonia from normal on chest radiographs.

  python -m pneumojax.main --config=m1                          train on the embedded phantoms
  python -m pneumojax.main --config=m1 --data=FOLDER            train on your images
  python -m pneumojax.main --mode=evaluate --workdir=DIR        evaluate a run, or an experiment's; with --data, on
                                                                other images
  python -m pneumojax.main --mode=predict --workdir=DIR --data=FILES
                                                                predict images: a file, folder, pattern or .npz file
  python -m pneumojax.main --mode=explain --workdir=DIR         explain a run's worst errors; with --data, other images
  python -m pneumojax.main --mode=experiment --data=FOLDER      train models under recipes, on folds, and compare them
  python -m pneumojax.main --mode=audit --data=FOLDER           look for what is wrong with images and splits
  python -m pneumojax.main --mode=prepare --data=FOLDER         write the images into the cache that training reads
  python -m pneumojax.main --mode=benchmark                     measure how fast all of it is on this machine

Any field of the config is overridden as --config.optimizer.learning_rate=1e-4.
"""

import os
import sys

from absl import app, flags, logging
from etils import epath

from pneumojax import allocator, interrupt
from pneumojax.errors import UserError

flags.DEFINE_string("config", None, "A name (m1), a name and recipe (m1:paper), or a path to a Python file.")
flags.DEFINE_string("workdir", None, "The folder of the run; default: runs/<config>-<recipe>-<source>, or alike.")
flags.DEFINE_string("data", None, "A folder, an .npz file, tfds:NAME, or phantom.")
MODES = ("train", "evaluate", "predict", "explain", "experiment", "audit", "prepare", "benchmark")
flags.DEFINE_enum("mode", "train", MODES, "What to do.")
FLAGS = flags.FLAGS


def _parse(argv: list[str]) -> list[str]:
    """Sets the flags, and returns the config's overrides behind the program's name."""
    from pneumojax.config import split_overrides

    plain, overrides = split_overrides(argv)
    try:
        rest = FLAGS(plain)
    except flags.Error as error:
        _stop(str(error))
    if len(rest) > 1:
        _stop(f"unexpected argument {rest[1]!r}: flags are given as --name=value")
    return rest + overrides


def _main(argv: list[str]) -> None:
    if FLAGS.mode == "predict":  # else NumPy's threads spin on after each search, on cores that decode and infer
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
    from pneumojax import cache, curate, workdirs  # not above: processes that read images import this module anew
    from pneumojax.experiment.plan import is_experiment

    logging.set_verbosity(logging.ERROR)  # warnings here are between libraries
    workdir = None if FLAGS.workdir is None else epath.Path(FLAGS.workdir).expanduser()
    if FLAGS.mode == "audit" and FLAGS.data is None:
        raise UserError("give --data: what is to be audited")
    if FLAGS.mode == "evaluate" and FLAGS.config is None and is_experiment(workdir):
        from pneumojax.experiment.mode import evaluate_experiment

        return evaluate_experiment(argv[1:], workdir, FLAGS.data)
    config = workdirs.config_for(FLAGS.mode, FLAGS.config, workdir, FLAGS.data, overrides=argv[1:])
    workdir = workdir or workdirs.default(FLAGS.mode, config)
    if FLAGS.mode == "audit":
        sys.exit(curate.audit_mode(config, workdir))
    if FLAGS.mode == "prepare":
        return curate.prepare_mode(config)
    if FLAGS.mode == "benchmark":
        from pneumojax.benchmark.mode import benchmark_mode

        return benchmark_mode(config, workdir)
    cache.keep_compiled(config.data.cache_dir)
    if FLAGS.mode == "experiment":
        from pneumojax.experiment.mode import experiment_mode

        return experiment_mode(config, argv[1:], workdir)
    if FLAGS.mode == "predict":
        from pneumojax.predict import predict_mode

        sys.exit(predict_mode(config, workdir, FLAGS.data))
    if FLAGS.mode == "explain":
        from pneumojax.explanations import explain_mode

        return explain_mode(config, workdir, FLAGS.data)
    from pneumojax import run  # JAX, which images alone do not need

    if FLAGS.mode == "train":
        return run.train_mode(config, workdir)
    run.evaluate_mode(config, workdir, FLAGS.data)
    return None


def _stop(line: str, status: int = 2) -> None:
    print(f"pneumojax: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(status)


def _guarded(argv: list[str]) -> None:
    try:
        _main(argv)
    except UserError as error:
        _stop(str(error))
    except OSError as error:  # no permission, no space, a file where a folder is wanted
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        _stop("interrupted: run the same command again to go on", 75)


def run() -> None:
    """The command line. A scheduler's SIGTERM stops it as Ctrl-C does."""
    interrupt.raise_on_signals()
    allocator.keep_freed()
    app.run(_guarded, flags_parser=_parse)


if __name__ == "__main__":
    run()
