"""Find a config, apply overrides to it, check it, write it and read it.

No function here changes a config that it was given. What each field may hold, the part that reads the field says: see
the `*_settings.py` of each folder and `workflows/run_config.py`, which collects them.
"""

import ast
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from pneumojax.runtime.errors import UserError, unknown
from pneumojax.runtime.files import read_json, write_whole
from pneumojax.runtime.run_identity import KEY, Identity, sha256

# Fields on which no result of a run depends: how and where shards are made, what is refused, how evaluation is done.
_WITHOUT_EFFECT = re.compile(
    r"(benchmark|checkpoint|evaluation|experiment|explanation|export|pacs|prediction|serve)\."
    r"|data\.(allow_leakage|beam_options|beam_runner|cache_dir|columns|on_error|resident|workers)|model\.fused|site$"
)
# Fields that say where to write and what to run: a workdir may be a stranger's, so it neither holds nor sets them.
LOCAL = (
    "data.beam_options", "data.beam_runner", "data.cache_dir", "export.about", "export.output", "pacs.address",
    "pacs.ae_title", "pacs.ca_bundle", "pacs.client_certificate", "pacs.credentials", "pacs.dates", "pacs.dicomweb",
    "pacs.hosts", "pacs.listen", "pacs.peers", "pacs.queue", "pacs.send", "pacs.study", "pacs.worklist",
    "prediction.output", "serve.host", "serve.port", "site",
)  # fmt: skip
_RENAMED = {"evaluation.shifts": "evaluation.corruptions", "experiment.shifts": "experiment.corruptions"}  # since 0.1
# Fields with an effect that 0.1 did not have: what they would have said then.
_ADDED = {"data.leave_out_site": "", "data.patient_pattern": "", "data.trust": "", "data.trust_column": "read_by"}
_ADDED |= {"init_from": "", "model.blocks": "", "model.equalize": False, "freeze": "", "augment.shading": 0.0}
SHARED = "base"  # the config that the others are made of, not one to run
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


class Rule(NamedTuple):
    """Whether the field with this dotted name holds what is expected, in words."""

    field: str
    holds: bool
    expected: str


Rules = Callable[[ConfigDict], Iterable[Rule]]


def load(spec: str) -> ConfigDict:
    """Load a config by a name ("m1") or a name and recipe ("m1:paper"); a Python file's path may stand for the name.

    Such a file defines `get_config(recipe) -> ConfigDict`. `name` and `recipe` are filled in, and fields are locked.

    Raises:
      UserError: there is no such config or recipe, or the file's `get_config` returns no config.
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
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path} gives no config by get_config(recipe): {reason}") from error


def _find(name: str) -> Path:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no config file {name}: check the path")
        return path
    if name not in shipped() and name != SHARED:
        raise unknown("config", name, shipped())
    return _folder() / f"{name}.py"


def shipped() -> list[str]:
    """Return the names of the configs that come with the package, such as "m1"."""
    return sorted(path.stem for path in _folder().glob("*.py") if path.stem != SHARED)


def _folder() -> Path:
    package = Path(__file__).parents[1]
    # Beside the package in the source tree, within it in a wheel.
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "its name ends in .py"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shared_source() -> str:
    """Return the text of the file that all shipped configs share: each field with its default and a comment."""
    return _find(SHARED).read_text()


def split_overrides(argv: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the other arguments, and the overrides as "field=value", or "field" without a value.

    An override is `--config.FIELD=VALUE`, `--config.FIELD VALUE`, or `--config.FIELD` of a boolean field.
    """
    others, overrides, arguments = [], [], list(argv)
    while arguments:
        argument = arguments.pop(0)
        name, equals, _ = argument.lstrip("-").partition("=")
        if not (argument.startswith("-") and name.startswith("config.")):
            others.append(argument)
            continue
        assignment = argument.lstrip("-").removeprefix("config.")
        if not equals and arguments and not re.match(r"-+[a-zA-Z]", arguments[0]):
            assignment += f"={arguments.pop(0)}"
        overrides.append(assignment)
    return others, overrides


def with_fields(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    """Return a copy of the config with other values in `fields`, by dotted name. The fields must exist."""
    copy = ConfigDict(config.to_dict()).lock()
    for field, value in fields.items():
        *groups, last = field.split(".")
        reduce(getitem, groups, copy)[last] = value
    return copy


def override(config: ConfigDict, assignments: Iterable[str]) -> ConfigDict:
    """Return a copy of the config with the `assignments`, each "field=value".

    Raises:
      UserError: there is no such field, it is a group of fields, or the value is of another type.
    """
    known = fields(config)
    changed = {}
    for assignment in assignments:
        field, equals, text = assignment.partition("=")
        if field not in known:
            raise _unknown_field(field, known)
        if not equals and not isinstance(known[field], bool):
            raise UserError(f"config field {field!r} needs a value: write --config.{field}=VALUE")
        changed[field] = _parse(field, text if equals else "true", type(known[field]))
    return with_fields(config, changed)


def _unknown_field(field: str, known: Mapping[str, Any]) -> UserError:
    if any(name.startswith(field + ".") for name in known):
        return UserError(f"config field {field!r} is a group: set one of its fields, such as {field}.NAME=VALUE")
    last = field.rpartition(".")[2]
    same = [name for name in known if name.rpartition(".")[2] in (last, _SHORT.get(last))]
    if same:
        return UserError(f"no config field {field!r}: did you mean {' or '.join(same[:3])}?")
    return unknown("config field", field, known)


_SHORT = {"lr": "learning_rate", "bs": "batch_size", "size": "image_size", "num_epochs": "epochs"}


def fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return every field's value by its dotted name."""
    found = {}
    for name, value in config.items():
        found |= fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return found


def _missing(config: ConfigDict) -> list[str]:
    """Return the fields that every config has and this one lacks."""
    return sorted(fields(load(f"{SHARED}:recommended")).keys() - fields(config).keys())


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


def check(config: ConfigDict, rules: Iterable[Rules]) -> None:
    """Check the fields against the `rules` of the parts that read them.

    Raises:
      UserError: a field is missing, of another type, or out of range.
    """
    if missing := _missing(config):
        raise UserError(f"the config lacks a field: add {missing[0]}, or start from one that `load` returns")
    try:
        found = [rule for part in rules for rule in part(config)]
    except (AttributeError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"a field of the config has another type: {reason}") from None
    for field, holds, expected in found:
        if not holds:
            raise UserError(f"config field {field!r} must be {expected}, not {fields(config)[field]!r}")


def new_identity(config: ConfigDict, splits: str, images: str) -> Identity:
    """Return the identity of a run that starts with this config, table of splits and digest of images.

    It does not depend on where the images are.
    """
    without_place = with_fields(config, {"data.source": "", "data.labels": ""})
    effective = {name: value for name, value in fields(without_place).items() if not _WITHOUT_EFFECT.match(name)}
    content = json.dumps([sorted(effective.items()), splits, images])
    return Identity(sha256(content)[:16], sha256(splits), images)


def write(config: ConfigDict, path: epath.Path, identity: Identity | None = None) -> None:
    """Write the config to `path` as JSON, without the `LOCAL` fields, and with the identity of its run."""
    tree = json.loads(config.to_json_best_effort())
    for field in LOCAL:
        *group, name = field.split(".")
        (tree.get(group[0], {}) if group else tree).pop(name, None)
    if identity:
        tree[KEY] = identity._asdict()
    write_whole(path, json.dumps(tree, indent=2, sort_keys=True) + "\n")


def read(path: epath.Path) -> ConfigDict:
    """Read a config that `write` wrote, in this version or an earlier one.

    Fields on which no result depends take their defaults where they are missing, as the `LOCAL` ones always do. Fields
    that this version does not know are passed over.

    Raises:
      UserError: the file is no config, or lacks a field on which results depend.
    """
    advice = "bring it back as it was written, or train again in another --workdir"
    try:
        saved = _flat(read_json(path), "")
    except (RecursionError, TypeError, ValueError) as error:  # the last also where it is no JSON, or no UTF-8
        raise UserError(f"{path} is no config ({error}): {advice}") from None
    saved = {_RENAMED.get(field, field): value for field, value in saved.items()}
    config = load(f"{SHARED}:recommended")
    values = {}
    for field, default in fields(config).items():
        if field in saved and field not in LOCAL:
            values[field] = _of_kind(saved[field], default)
            if values[field] is None:
                kind = _KINDS.get(type(default), "a text")
                raise UserError(f"{path}: {field} is {kind}, not {saved[field]!r}: {advice}")
        elif field in _ADDED:
            values[field] = _ADDED[field]
        elif not _WITHOUT_EFFECT.match(field):
            raise UserError(f"{path} lacks {field}, on which results depend: {advice}")
    return with_fields(config, values)


def effective(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config that `write` wrote on which its run's results depend, by dotted name.

    Where the images lie is left out, since it says nothing about them and much about the machine.
    """
    flat = _flat(dict(saved), "")
    hidden = (*LOCAL, "data.source", "data.labels")
    return {
        field: value
        for field, value in sorted(flat.items())
        if not (_WITHOUT_EFFECT.match(field) or field in hidden or field.startswith(f"{KEY}."))
    }


def _flat(tree: Any, prefix: str) -> dict[str, Any]:
    """Return every value of nested dictionaries by its dotted name."""
    if not isinstance(tree, dict):
        raise TypeError("its fields are missing")
    found = {}
    for name, value in tree.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _of_kind(value: Any, default: Any) -> Any:
    """Return a value as one of the type of `default`, or None."""
    if isinstance(default, float) and type(value) is int and abs(value) < 1 << 53:
        return float(value)
    return value if type(value) is type(default) else None


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """Return the fields in which two configs differ, as "field=ours, not theirs", except those without effect.

    A config of the user's own may have further fields, which no part of the program reads.
    """
    left, right = fields(ours), fields(theirs)
    return [
        f"{field}={left.get(field)!r}, not {right.get(field)!r}"
        for field in sorted(left.keys() & right.keys())
        if left.get(field) != right.get(field) and not _WITHOUT_EFFECT.match(field)
    ]
