"""Train, evaluate, explain and measure CNNs that tell pneumonia from normal on chest radiographs."""

import contextlib
import io
import os
import sys
import textwrap
import traceback
from typing import NoReturn

from absl import app, flags, logging

from pneumojax import __version__, modes
from pneumojax.data.decode.quiet import quiet_decoders
from pneumojax.runtime import allocator, cache, distributed, signals
from pneumojax.runtime.errors import ExitStatus, UserError
from pneumojax.runtime.files import expanded

flags.DEFINE_enum("mode", "train", list(modes.MODES), "What to do.")
flags.DEFINE_string("config", None, "A name (m1), a name and recipe (m1:paper), or a path to a Python file.")
flags.DEFINE_string("workdir", None, "The folder of the run; default: runs/<config>-<recipe>-<source>, or similar.")
flags.DEFINE_string("model", None, "A trained model: the name of a shipped one, an exported folder, or a workdir.")
flags.DEFINE_string(
    "data", None, "A folder, an .npz file, tfds:NAME, or phantom; or several sites, as NAME=PLACE,NAME=PLACE."
)
flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process, where a job has several: see launch/.")
flags.DEFINE_string("processes", None, "How many the job has; auto: as JAX finds out on Cloud TPUs and clusters.")
flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
flags.DEFINE_integer("join_seconds", distributed.JOIN_S, "How long the processes of a job wait for each other.", 1)
FLAGS = flags.FLAGS
_WIDTH = 80  # of the help
_NO_MEMORY = "not enough memory: lower --config.batch_size or --config.evaluation.batch_size, or use smaller images"


def usage() -> str:
    """Return the text of --help."""
    lines = textwrap.wrap(f"{__doc__}", _WIDTH)
    lines += ["\nusage: pneumojax [--mode=MODE] FLAGS   (also: python -m pneumojax.main)\n", "modes:"]
    lines += [f"  {name:<12}{mode.summary}\n{'':14}--mode={name} {mode.usage}" for name, mode in modes.MODES.items()]
    lines.append("\nflags:")
    names = ("config", "workdir", "model", "data", "coordinator", "processes", "process", "join_seconds")
    meanings = {name: FLAGS[name].help for name in names} | {
        "config.FIELD": "A field of the config, such as --config.epochs=20: see --help-config.",
        "help-config": "Every field with its meaning, default and range.",
        "version": "The version.",
    }
    for name, meaning in meanings.items():
        indent = f"  --{name:<14}"
        lines += textwrap.wrap(
            f"{meaning}", _WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False
        )
    return "\n".join(lines)


def _parse(argv: list[str]) -> list[str]:
    """Set the flags, and return the program's name with the config's overrides."""
    from pneumojax.runtime.config import split_overrides

    _answer_questions(argv[1:])
    plain, overrides = split_overrides(argv)
    try:
        rest = FLAGS(plain)
    except flags.Error as error:
        stop(str(error) + _hint(plain))
    if len(rest) > 1:
        if rest[1].lower().endswith((".dcm", ".dicom", ".jpg", ".jpeg", ".png")):
            stop(f"unexpected argument {rest[1]!r}: put a pattern in quotes, such as --data='films/*.dcm'")
        stop(f"unexpected argument {rest[1]!r}: write flags as --name=value")
    return rest + overrides


def _answer_questions(arguments: list[str]) -> None:
    """Print what --help, --help-config or --version asks for, and leave."""
    for argument in arguments:
        if argument in ("-h", "--help", "-help", "--helpfull"):
            answer = usage()
        elif argument == "--version":
            answer = f"pneumojax {__version__}"
        elif argument in ("--help-config", "--help_config"):
            from pneumojax.config_help import fields_help

            answer = fields_help()
        else:
            continue
        try:
            print(answer, flush=True)
        except BrokenPipeError:  # such as in `| head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain at its end
        sys.exit(ExitStatus.DONE)


def _hint(arguments: list[str]) -> str:
    """Return a hint where a flag without "config." names a field of the config."""
    from pneumojax.runtime import config as configs

    known = configs.fields(configs.load("m1"))
    for argument in arguments[1:]:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("--") and name not in FLAGS:
            for field in known:
                if name in (field, field.rpartition(".")[2]):
                    return f"; did you mean --config.{field}{equals}{value}?"
    return ""


def _main(argv: list[str]) -> int:
    if FLAGS.mode in ("predict", "pacs", "serve"):  # else NumPy's threads spin on, on cores that decode and infer
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported
    for variable, library in (("MPLCONFIGDIR", "matplotlib"), ("KERAS_HOME", "keras")):
        os.environ.setdefault(variable, str(cache.folder("") / library))  # else it writes to the home folder
    logging.set_verbosity(logging.FATAL)  # warnings here are between libraries, and errors are raised as well
    quiet_decoders()
    command = modes.Command(
        spec=FLAGS.config,
        workdir=None if FLAGS.workdir is None else expanded(FLAGS.workdir),
        model=FLAGS.model,
        data=FLAGS.data,
        overrides=argv[1:],
        job=distributed.requested(FLAGS.coordinator, FLAGS.processes, FLAGS.process),
        join_seconds=FLAGS.join_seconds,
    )
    return modes.run(FLAGS.mode, command)


def stop(line: str, status: int = ExitStatus.USER_ERROR) -> NoReturn:
    with contextlib.suppress(OSError):  # Ctrl-C has ended the `tee` that read it, say
        print(f"pneumojax: {' '.join(line.split())}", file=sys.stderr, flush=True)
    distributed.leave(status)


def _guarded(argv: list[str]) -> None:
    try:
        sys.exit(_main(argv))
    except UserError as error:
        lost = isinstance(error, distributed.NotJoined)
        stop(str(error), ExitStatus.LOST_PROCESS if lost else ExitStatus.USER_ERROR)
    except OSError as error:  # no permission, no space, a file where a folder is wanted
        stop(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except MemoryError:
        stop(_NO_MEMORY)
    except KeyboardInterrupt:
        stop(signals.MESSAGE, ExitStatus.STOPPED)
    except Exception as error:
        if distributed.lost_another(error):
            stop("another process of the job has ended: its own message says why", ExitStatus.LOST_PROCESS)
        if "RESOURCE_EXHAUSTED" in str(error):
            stop(_NO_MEMORY)
        traceback.print_exc()
        distributed.leave(ExitStatus.CRASHED)


def run() -> None:
    """Run the command line. A scheduler's SIGTERM stops it as Ctrl-C does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may have letters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    signals.leave_on_signals()
    allocator.keep_freed()
    try:
        app.run(_guarded, flags_parser=_parse)
    finally:
        signals.ignore_signals()


if __name__ == "__main__":
    run()
