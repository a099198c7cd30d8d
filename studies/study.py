"""What all studies share: the command line's end, and results as JSON."""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from pneumojax.runtime import host
from pneumojax.runtime.errors import UserError
from studies import tables

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make a study's parser: its module's docstring is the help text, and `--output` names the result's file."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--output", type=Path, metavar="FILE.json", help="write the result to this file")
    return made


def names(text: str) -> list[str]:
    """Split a comma-separated option."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """Split a comma-separated option of whole numbers."""
    return [int(name) for name in names(text)]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the median of some values, their least and their most."""
    found = list(values)
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def add_exponents(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each row the power of `images` by which its `seconds` have grown since the row before."""
    rows[0]["exponent"] = None
    for before, row in pairwise(rows):
        row["exponent"] = math.log(row["seconds"] / before["seconds"]) / math.log(row["images"] / before["images"])


def run(main: Callable[[list[str]], None]) -> None:
    """Run a study's main function; a user's mistake ends it in one line."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))


def finish(
    study: str,
    argv: Sequence[str],
    figures: Mapping[str, Any],
    shown: Sequence[str],
    output: Path | None,
    machine: str | None = None,
) -> None:
    """Print the tables named in `shown`, and write the result to `output` where one is given.

    Args:
      study: the module's name.
      argv: its arguments.
      figures: what it measured.
      shown: tables of `tables.TABLES`.
      output: a file to write.
      machine: where the figures were measured; this machine where it is left out.
    """
    for name in shown:
        print(f"{name}\n\n{tables.render(name, figures)}\n", flush=True)
    if output:
        write(output, result(study, argv, figures) | ({"machine": machine} if machine else {}))


def result(study: str, argv: Sequence[str], figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures together with what they were measured by, where and when."""
    return {
        "study": study,
        "command": shlex.join(["python", "-m", f"studies.{study}", *argv]),
        "machine": host.describe(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "figures": figures,
    }


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write one result."""
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Read the result `name` from a folder of results."""
    return json.loads((folder / f"{name}.json").read_text())


def machine(described: str | Mapping[str, Any]) -> str:
    """Name a result's machine, given as `host.describe()` does or in words."""
    if isinstance(described, str):
        return described
    versions = ", ".join(f"{name} {version}" for name, version in described["versions"].items())
    memory = described["memory_bytes"] / 1e9
    return f"{processor(described)}, {memory:.0f} GB of memory, {described['system']}; {versions}"


def processor(described: Mapping[str, Any]) -> str:
    """Name a machine's processor: its cores, kind and instructions."""
    instructions = f" with {described['instructions']}" if described["instructions"] else ""
    return f"{described['cores']} cores of {described['cpu']}{instructions}"


def commit() -> str | None:
    """Return the clone's commit, with "-dirty" where files differ from it; None outside a clone or without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
