"""Collect what --mode=benchmark measured into one result.

  python -m studies.speed WORKDIR... [--output=studies/results/speed.json]

The workdirs are those of --mode=benchmark; the command, the machine and the figures of each are taken from its
benchmark.json. This study measures nothing itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pneumojax.benchmark.benchmark_tables import product_rate
from pneumojax.runtime.errors import UserError
from studies import study
from studies.benchmarks import read_benchmarks

TABLES = ("speed-runs", "speed-steps", "speed-compared", "speed-ways", "speed-fed")
LOAD = ("waiting_cores", "foreign_cores")


def summary(run: str, benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the tables show of one benchmark."""
    wanted, taking_turns = benchmark["benchmark"], [*benchmark["fed"], *benchmark["compared"]]
    load = {name: max((row[name] for row in taking_turns), default=None) for name in LOAD}
    return {
        "run": run,
        "command": benchmark["command"],
        "kernels": benchmark["machine"]["kernels"],
        "matrix_product": benchmark["matrix_product"],
        "seconds": wanted["seconds"],
        "rounds": wanted["rounds"],
        "peers": study.names(wanted["peers"]),
        "rows": [row | {"of_product": _of_product(benchmark, row)} for row in benchmark["rows"]],
        "fed": [{name: row[name] for name in ("model", "batch_size", "ways")} for row in benchmark["fed"]],
        "compared": [{name: value for name, value in row.items() if name != "turns"} for row in benchmark["compared"]],
        **load,
    }


def _of_product(benchmark: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
    """Return the share of a matrix product's rate, on as many devices."""
    rate = product_rate(benchmark, row)
    return row["gflops"] / rate if rate and "gflops" in row else None


def machine(benchmarks: list[dict[str, Any]]) -> str:
    """Name the one machine of all benchmarks.

    Raises:
      UserError: they are of several.
    """
    found = {study.machine(benchmark["machine"]) for benchmark in benchmarks}
    if len(found) > 1:
        raise UserError(f"the workdirs are of several machines: give those of one ({'; '.join(sorted(found))})")
    return found.pop()


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR", help="of --mode=benchmark")
    given = parser.parse_args(argv)
    benchmarks = read_benchmarks(given.workdirs)
    described = machine(benchmarks)
    figures = {
        "benchmarks": [
            summary(workdir.name, benchmark) for workdir, benchmark in zip(given.workdirs, benchmarks, strict=True)
        ]
    }
    study.finish("speed", argv, figures, TABLES, given.output, machine=described)


if __name__ == "__main__":
    study.run(main)
