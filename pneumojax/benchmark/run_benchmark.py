"""`--mode=benchmark`: from the config to benchmark.json and its tables."""

import importlib.util
import json
import sys
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from pneumojax.benchmark import benchmark_tables, compare, measure
from pneumojax.benchmark.plan import Plan, plan, tasks
from pneumojax.benchmark.tasks import SIDES
from pneumojax.benchmark.worker_client import Unmeasured
from pneumojax.runtime import host, run_log
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import write_whole
from pneumojax.workflows import prepare


def run_benchmark(config: ConfigDict, workdir: epath.Path) -> None:
    """Measure what the config's `benchmark` names, print it, and write it into the workdir.

    Results are written after each measurement, so that an interrupted benchmark keeps them.

    Raises:
      UserError: a peer's library is not installed, or the workdir holds something else.
    """
    planned = plan(config)
    config, _ = prepare.open_own(config)  # a missing source is reported before anything is measured
    _require_libraries(planned)
    _require_room(workdir)
    fields = config.to_dict()
    facts = _facts(planned, fields)
    results: dict[str, Any] = facts | {"rows": [], "fed": [], "compared": []}
    run_log.console.print(benchmark_tables.headline(facts))

    def write() -> None:
        write_whole(workdir / workdirs.BENCHMARK, json.dumps(results, indent=2) + "\n")

    def add(kind: str, row: dict[str, Any]) -> None:
        results[kind].append(row)
        write()

    write()  # a folder that cannot be written is reported before hours of measuring
    for task in tasks(planned):
        add("rows", row := measure.measure(task, fields, planned.seconds))
        run_log.console.print(benchmark_tables.line(row))
    for row in compare.feeding(planned, fields, facts["machine"]["platform"]):
        add("fed", row)
    for row in compare.compare(planned, fields, facts["machine"]["platform"]):
        add("compared", row)
        run_log.console.print(benchmark_tables.compared_line(row))
    section = benchmark_tables.section(results)
    run_log.console.print(section)
    write_whole(workdir / workdirs.BENCHMARK_TABLES, section)
    run_log.console.print(f"Written: {workdir / workdirs.BENCHMARK}, {workdir / workdirs.BENCHMARK_TABLES}")


def _require_libraries(planned: Plan) -> None:
    for peer in planned.peers:
        library = SIDES[peer].library
        if library and importlib.util.find_spec(library) is None:
            raise UserError(f"peer {peer} needs {library}: run `pip install -e .[bench]` or `make bench`")


def _require_room(workdir: epath.Path) -> None:
    if workdirs.names_in(workdir) - {workdirs.BENCHMARK, workdirs.BENCHMARK_TABLES}:
        raise UserError(f"{workdir} is not empty and holds no benchmark: choose another --workdir")
    if (workdir / workdirs.BENCHMARK_TABLES).exists():
        raise UserError(f"{workdir} holds a finished benchmark: choose another --workdir")


def _facts(planned: Plan, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the command, the settings, and what the machine is and how fast it is."""
    busy = host.busy_cores()
    try:
        product = measure.matrix_products(planned.precisions, fields, planned.seconds)
        memory = measure.memory(fields, planned.seconds)
    except Unmeasured as reason:
        raise UserError(f"cannot measure this machine: {reason}") from None
    return {
        "command": " ".join(["python -m pneumojax.main", *sys.argv[1:]]),
        "machine": host.describe() | {name: product[name] for name in ("device", "platform", "kernels")},
        "benchmark": fields["benchmark"],
        "matrix_product": {name: product[name] for name in ("size", "gflops")},
        "memory_gb_s": memory,
        "busy_cores": max(busy, host.busy_cores()),
    }
