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

import contextlib
import os
import sys
import traceback

from absl import app, flags, logging
from etils import epath

from pneumojax import allocator, cache, interrupt, processes
from pneumojax.errors import UserError

MODES = ("train", "evaluate", "predict", "explain", "experiment", "audit", "prepare", "benchmark")
flags.DEFINE_enum("mode", "train", MODES, "What to do.")
flags.DEFINE_string("config", None, "A name (m1), a name and recipe (m1:paper), or a path to a Python file.")
flags.DEFINE_string("workdir", None, "The folder of the run; default: runs/<config>-<recipe>-<source>, or alike.")
flags.DEFINE_string("data", None, "A folder, an .npz file, tfds:NAME, or phantom.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, where a job has several: see launch/.")
flags.DEFINE_string("processes", None, "How many the job has; auto: as JAX finds out on Cloud TPUs and clusters.")
flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
flags.DEFINE_integer("join_seconds", processes.JOIN_S, "How long the processes of a job wait for each other.", 1)
FLAGS = flags.FLAGS
CRASHED = 70  # exit status of a defect of ours, which a traceback tells; 1 is that of findings, or unreadable images


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


def _main(argv: list[str]) -> int:
    if FLAGS.mode == "predict":  # else NumPy's threads spin on after each search, on cores that decode and infer
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
    os.environ.setdefault("MPLCONFIGDIR", str(cache.folder("") / "matplotlib"))  # else it writes to the home folder
    from pneumojax import modes  # not above: processes that read images import this module anew

    logging.set_verbosity(logging.FATAL)  # warnings here are between libraries, and errors are raised as well
    workdir = None if FLAGS.workdir is None else epath.Path(FLAGS.workdir).expanduser()
    return modes.run(
        FLAGS.mode,
        spec=FLAGS.config,
        workdir=workdir,
        data=FLAGS.data,
        overrides=argv[1:],
        job=processes.asked(FLAGS.coordinator, FLAGS.processes, FLAGS.process),
        join_seconds=FLAGS.join_seconds,
    )


def _stop(line: str, status: int = 2) -> None:
    with contextlib.suppress(OSError):  # Ctrl-C has ended the `tee` that read it, say
        print(f"pneumojax: {' '.join(line.split())}", file=sys.stderr, flush=True)
    processes.leave(status)


def _guarded(argv: list[str]) -> None:
    try:
        sys.exit(_main(argv))
    except UserError as error:
        _stop(str(error), processes.LOST if isinstance(error, processes.NotJoined) else 2)
    except OSError as error:  # no permission, no space, a file where a folder is wanted
        _stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        _stop(interrupt.TOLD, interrupt.STOPPED)
    except Exception as error:
        if processes.lost_another(error):
            _stop("another process of the job has ended: what it said tells why", processes.LOST)
        traceback.print_exc()
        processes.leave(CRASHED)


def run() -> None:
    """The command line. A scheduler's SIGTERM stops it as Ctrl-C does."""
    interrupt.leave_on_signals()
    allocator.keep_freed()
    try:
        app.run(_guarded, flags_parser=_parse)
    finally:
        interrupt.ignore_signals()


if __name__ == "__main__":
    run()
