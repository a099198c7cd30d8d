"""Finds a config, applies overrides to it, checks it, and writes it down."""

import ast
import importlib.util
import json
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from pneumojax.benchmark import plan
from pneumojax.data.records import Options
from pneumojax.data.sources import chexpert
from pneumojax.data.splits import PAPERS_SUBSET, Carving
from pneumojax.errors import UserError, unknown
from pneumojax.experiment import plan as experiment
from pneumojax.family import FAMILY
from pneumojax.files import write_whole

FILE = "config.json"

_WITHOUT_EFFECT = (
    "benchmark.",
    "checkpoint.",
    "data.allow_leakage",
    "data.beam_options",
    "data.beam_runner",
    "data.cache_dir",
    "data.on_error",
    "data.resident",
    "data.workers",
    "evaluation.",
    "experiment.",
    "explanation.",
    "prediction.",
)
BASELINES = ("blurred", "black")
_SQUARES = ("square", "square_step")
_COUNTS = ("count", "steps", "samples")
_SUBSET = re.compile(r"all|paper|\d+,\d+")
SCHEDULES = ("constant", "cosine", "plateau")
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def load(spec: str) -> ConfigDict:
    """The config that `spec` names.

    Args:
      spec: a name ("m1"), a name and recipe ("m1:paper"), or the path of a Python file with
        `get_config(recipe) -> ConfigDict`, likewise with an optional ":recipe".

    Returns:
      The config, with `name` and `recipe` filled in, its fields locked.

    Raises:
      UserError: no such config or recipe, or the file's `get_config` gives none.
    """
    name, _, recipe = spec.partition(":")
    path = _find(name)
    try:
        module = _run(path)
        config = module.get_config(recipe) if recipe else module.get_config()
        with config.unlocked():
            config.name = path.stem
            config.recipe = config.get("recipe", recipe or "default")
        return config.lock()
    except UserError:
        raise
    except Exception as error:  # the file is the user's own program
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path} gives no config by get_config(recipe): {told}") from error


def _find(name: str) -> Path:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no config file {name}")
        return path
    here = Path(__file__).parent
    # Beside the package in the source tree; within it once built into a wheel.
    folder = next(f for f in (here / "configs", here.parent / "configs") if f.is_dir())
    known = {path.stem: path for path in folder.glob("*.py")}
    if name not in known:
        raise unknown("config", name, FAMILY)
    return known[name]


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """Parts a command line into what is left, and the overrides, each as "field=value".

    An override is `--config.FIELD=VALUE`, or `--config.FIELD VALUE`.
    """
    plain, overrides, arguments = [], [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config."):
            overrides.append(f"{name.removeprefix('config.')}={value if equals else next(arguments, '')}")
        else:
            plain.append(argument)
    return plain, overrides


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets the field with the dotted name `field` to what `text` says, in place.

    Raises:
      UserError: there is no such field, it is a group of fields, or the value is of another type.
    """
    group, dot, last = field.rpartition(".")
    fields = _fields(config)
    if field not in fields:
        if any(name.startswith(field + ".") for name in fields):
            raise UserError(f"config field {field!r} is a group; set one of its fields, such as {field}.NAME=VALUE")
        raise unknown("config field", field, fields)
    target = config
    for part in group.split(".") if dot else ():
        target = target[part]
    target[last] = _parse(field, text, type(fields[field]))


def _fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    fields = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            fields |= _fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _parse(field: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        value = text
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"config field {field!r} takes {_KINDS[kind]}, not {text!r}")
    return value


def check(config: ConfigDict) -> None:
    """Holds every field against the range that it may have.

    Raises:
      UserError: a field is missing or out of range.
    """
    try:
        rules = _rules(config)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"the config lacks a field, or one is of another type: {error}".splitlines()[0]) from None
    for field, holds, expected in rules:
        if not holds:
            raise UserError(f"config field {field!r} must be {expected}, not {_fields(config)[field]!r}")


def _rules(c: ConfigDict) -> list[tuple[str, bool, str]]:
    share = "at least 0 and below 1"
    augmentations = [name for name in load("base:recommended").augment if name != "rotation"]
    return [
        ("deterministic", c.deterministic in (True, False), "true or false"),
        ("epochs", 1 <= c.epochs <= 1_000_000, "from 1 to 1,000,000"),
        ("batch_size", c.batch_size >= 1, "at least 1"),
        ("seed", 0 <= c.seed < 2**31, "at least 0 and below 2**31"),
        ("model.name", c.model.name in FAMILY, f"one of {', '.join(FAMILY)}"),
        ("model.image_size", 16 <= c.model.image_size <= 4096, "from 16 to 4096"),
        ("model.dtype", c.model.dtype in ("float32", "bfloat16"), "float32 or bfloat16"),
        ("model.batch_norm_momentum", 0 <= c.model.batch_norm_momentum < 1, share),
        ("optimizer.learning_rate", 0 < c.optimizer.learning_rate < 10, "above 0 and below 10"),
        ("optimizer.name", c.optimizer.name in ("adam", "rmsprop"), "adam or rmsprop"),
        ("optimizer.schedule", c.optimizer.schedule in SCHEDULES, ", ".join(SCHEDULES)),
        ("loss.label_smoothing", 0 <= c.loss.label_smoothing < 1, share),
        ("optimizer.warmup_epochs", 0 <= c.optimizer.warmup_epochs <= c.epochs, "from 0 to epochs"),
        ("loss.class_weights", c.loss.class_weights in ("none", "balanced"), "none or balanced"),
        ("augment.rotation", 0 <= c.augment.rotation <= 180, "from 0 to 180"),
        *((f"augment.{name}", 0 <= c.augment[name] < 1, share) for name in augmentations),
        ("data.label_rule", c.data.label_rule in chexpert.RULES, f"one of {', '.join(chexpert.RULES)}"),
        ("data.views", c.data.views in chexpert.VIEWS, " or ".join(chexpert.VIEWS)),
        ("data.subset", bool(_SUBSET.fullmatch(c.data.subset)), "all, paper, or NORMAL,PNEUMONIA such as 1082,6517"),
        ("data.on_error", c.data.on_error in ("fail", "skip"), "fail or skip"),
        ("data.resident", c.data.resident in ("auto", "always", "never"), "auto, always or never"),
        ("data.workers", 0 <= c.data.workers <= 1024, "from 0 to 1024"),
        ("data.split_seed", 0 <= c.data.split_seed < 2**31, "at least 0 and below 2**31"),
        ("data.folds", c.data.folds == 0 or 2 <= c.data.folds <= 1000, "0, or from 2 to 1000"),
        ("data.fold", 0 <= c.data.fold < max(c.data.folds, 1), "at least 0 and below data.folds"),
        ("data.leave_out", _is_pattern(c.data.leave_out), "a regular expression"),
        ("data.val_fraction", 0 < c.data.val_fraction < 1, "above 0 and below 1"),
        ("data.test_fraction", 0 <= c.data.test_fraction < 1 - c.data.val_fraction, "at least 0, and below 1 with val"),
        ("checkpoint.steps", c.checkpoint.steps >= 0, "at least 0"),
        ("checkpoint.minutes", 0 <= c.checkpoint.minutes < math.inf, "at least 0"),
        ("evaluation.batch_size", c.evaluation.batch_size >= 1, "at least 1"),
        ("evaluation.prevalence", 0 <= c.evaluation.prevalence < 1, share),
        *((f"explanation.{name}", c.explanation[name] >= 1, "at least 1") for name in _COUNTS),
        ("explanation.baseline", c.explanation.baseline in BASELINES, " or ".join(BASELINES)),
        *((f"explanation.{name}", 0 < c.explanation[name] <= 1, "above 0 and at most 1") for name in _SQUARES),
        ("explanation.noise", 0 <= c.explanation.noise <= 1, "at least 0 and at most 1"),
        ("prediction.output", _is_output(c.prediction.output), "empty, or end in .csv or .jsonl"),
        ("prediction.shard", _is_shard(c.prediction.shard), "empty, or such as 0/4"),
        *experiment.rules(c.experiment, c.data.folds),
        *plan.rules(c.benchmark),
    ]


def _is_output(text: str) -> bool:
    return not text or text.endswith((".csv", ".jsonl"))


def _is_shard(text: str) -> bool:
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    return not text or (found is not None and int(found[1]) < int(found[2]))


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def source_options(config: ConfigDict) -> Options:
    """What the config says of reading a source."""
    return Options(**{name: config.data[name] for name in Options._fields})


def carving(config: ConfigDict) -> Carving:
    """How the config divides train."""
    own = ("val_fraction", "test_fraction", "folds", "fold", "leave_out")
    return Carving(seed=config.data.split_seed, **{name: config.data[name] for name in own})


def subset(config: ConfigDict) -> tuple[int, int] | None:
    """How many normal and pneumonia images to train on; None for all."""
    named = {"all": None, "paper": PAPERS_SUBSET}
    text = config.data.subset
    return named[text] if text in named else tuple(map(int, text.split(",")))


def write(config: ConfigDict, path) -> None:
    """Writes `config` as JSON to `path` (an epath)."""
    write_whole(path, config.to_json_best_effort(indent=2, sort_keys=True) + "\n")


def read(path) -> ConfigDict:
    """Reads a config that `write` wrote to `path` (an epath).

    Raises:
      UserError: the file is not a config, or an earlier version's.
    """
    try:
        saved = ConfigDict(json.loads(path.read_text())).lock()
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a config: {error}") from None
    if missing := sorted(_fields(load("base:recommended")).keys() - _fields(saved).keys()):
        raise UserError(
            f"{path} lacks {missing[0]}: that run is of an earlier version; train anew in another --workdir"
        )
    return saved


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """The fields that two configs do not agree on, as "field=ours, not theirs", but for those that no result
    depends on: how and where shards are made, what is refused, and how evaluation is done."""
    left, right = _fields(ours), _fields(theirs)
    return [
        f"{field}={left.get(field)!r}, not {right.get(field)!r}"
        for field in sorted(left | right)
        if left.get(field) != right.get(field) and not field.startswith(_WITHOUT_EFFECT)
    ]
