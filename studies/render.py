"""Rewrite the tables of README.md, BENCHMARKS.md and docs/benchmarks from the results of studies.

  python -m studies.render             rewrites what stands between marks
  python -m studies.render --check     changes nothing; exits with 1 where a page is not what the results give

A page marks a table by `<!-- table: NAME -->` and `<!-- end -->`, and the machine and command of a result by
`<!-- source: RESULT -->` and `<!-- end -->`. Tables are listed in studies/tables.py, results lie in studies/results.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from studies import study, tables

_MARKED = re.compile(r"(<!-- (table|source): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages(root: Path) -> list[Path]:
    """List the pages that hold tables."""
    return [root / "README.md", root / "BENCHMARKS.md", *sorted((root / "docs" / "benchmarks").glob("*.md"))]


def rendered(text: str, results: Path = study.RESULTS) -> str:
    """Return a page's text with every marked part written from the results.

    Raises:
      KeyError: a mark names a table that does not exist.
      FileNotFoundError: a mark names a result that does not exist.
    """

    def part(found: re.Match) -> str:
        begin, kind, name, end = found.groups()
        result = tables.TABLES[name].result if kind == "table" else name
        if result in tables.AWAITED and not (results / f"{result}.json").exists():
            made = f"Not measured yet: `{tables.AWAITED[result]}` measures it."
        else:
            made = _table(name, results) if kind == "table" else source(study.read(name, results))
        return f"{begin}\n{made}\n\n{end}"

    return _MARKED.sub(part, text)


def _table(name: str, results: Path) -> str:
    return tables.render(name, study.read(tables.TABLES[name].result, results)["figures"])


def source(result: Mapping[str, Any]) -> str:
    """Return the paragraph on a result's machine, and its command as a block of code."""
    parts = [f"Machine: {study.machine(result['machine'])}."]
    if result["command"]:
        parts.append(f"```\n{result['command']}\n```")
    return "\n\n".join(parts)


def outdated(root: Path, results: Path = study.RESULTS) -> Iterator[tuple[Path, str]]:
    """Each page that is not what the results give, with the text that it should have."""
    for page in pages(root):
        text = page.read_text()
        if (wanted := rendered(text, results)) != text:
            yield page, wanted


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a page would change")
    check = parser.parse_args(argv).check
    found = list(outdated(study.ROOT))
    for page, wanted in found:
        name = page.relative_to(study.ROOT)
        if check:
            print(f"{name} is not what studies/results gives: run `python -m studies.render`", file=sys.stderr)
        else:
            page.write_text(wanted)
            print(f"Written: {name}")
    if check and found:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
