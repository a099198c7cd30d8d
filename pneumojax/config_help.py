"""The text of --help-config: each field of the config with its meaning, default and range."""

import ast
import io
import textwrap
import tokenize
from collections.abc import Iterator

from pneumojax.config_rules import RULES
from pneumojax.runtime import config as configs

_WIDTH = 80


def fields_help() -> str:
    """Return the fields by group, from the comments beside them in configs/base.py and from the rules."""
    config = configs.load("m1")
    defaults = configs.fields(config)
    ranges = {rule.field: rule.expected for rules in RULES for rule in rules(config)}
    lines = ["Fields of the config, with the defaults of --config=m1. Override one as", "--config.FIELD=VALUE."]
    group = ""
    for field, meaning in _meanings(configs.shared_source()):
        if field.rpartition(".")[0] != group:
            group = field.rpartition(".")[0]
            lines.append(f"\n{group}")
        shown = f"  {field}={defaults[field]!r}"
        lines += [shown] if len(shown) <= _WIDTH else [f"  {field}=", f"    {defaults[field]!r}"]
        text = f"{meaning} ({ranges[field]})" if field in ranges else meaning
        lines += textwrap.wrap(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _meanings(source: str) -> Iterator[tuple[str, str]]:
    """Yield each field that `recommended` in `source` sets, and the comment beside it."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    settings = next(node for node in ast.walk(functions["recommended"]) if isinstance(node, ast.Dict))
    for field, line in _lines(settings, ""):
        yield field, comments.get(line, "")


def _lines(dictionary: ast.Dict, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line of every field."""
    for key, value in zip(dictionary.keys, dictionary.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(value, ast.Dict):
            yield from _lines(value, f"{prefix}{key.value}.")
        elif isinstance(key, ast.Constant):
            yield f"{prefix}{key.value}", value.lineno
