"""`--mode=benchmark`: from the config to benchmark.json and the tables."""

import importlib.util
import json
import sys

from etils import epath
from ml_collections import ConfigDict

from pneumojax import curate, log, machine
from pneumojax.benchmark import compare, measure, page
from pneumojax.benchmark.plan import plan, tasks
from pneumojax.benchmark.processes import Unmeasured
from pneumojax.errors import UserError
from pneumojax.files import UNFINISHED, write_whole

LIBRARY = {
    "pneumojax-xla": "jax",
    "keras-tensorflow": "keras",
    "keras-jax": "keras",
    "torch": "torch",
    "torch-compile": "torch",
}


def benchmark_mode(config: ConfigDict, workdir: epath.Path) -> None:
    """Measures what the config's `benchmark` names, tells of it, and writes it into the workdir.

    Raises:
      UserError: a peer's library is not installed, or the workdir holds something else.
    """
    planned = plan(config)
    curate.open_own(config)  # a source that is not there is told before anything is measured
    for peer in planned.peers:
        if importlib.util.find_spec(LIBRARY[peer]) is None:
            raise UserError(f"peer {peer} needs {LIBRARY[peer]}: pip install -e .[bench], or make bench")
    there = {path.name for path in workdir.iterdir()} if workdir.exists() else set()
    if any(name not in (page.JSON, page.SECTION) and not name.endswith(UNFINISHED) for name in there):
        raise UserError(f"{workdir} is not empty and holds no benchmark: choose another --workdir")
    if page.SECTION in there:
        raise UserError(f"{workdir} holds a benchmark that has ended: choose another --workdir")
    given = config.to_dict()
    try:
        product = measure.matrix_products(planned.precisions, given, planned.seconds)
        memory = measure.memory(given, planned.seconds)
    except Unmeasured as reason:
        raise UserError(f"nothing can be measured: {reason}") from None
    facts = {
        "command": " ".join(["python -m pneumojax.main", *sys.argv[1:]]),
        "machine": machine.describe() | {name: product[name] for name in ("device", "platform", "kernels")},
        "benchmark": given["benchmark"],
        "matrix_product": {name: product[name] for name in ("size", "gflops")},
        "memory_gb_s": memory,
    }
    log.console.print(page.headline(facts))
    results = facts | {"rows": [], "fed": [], "compared": []}

    def write():
        write_whole(workdir / page.JSON, json.dumps(results, indent=2) + "\n")

    write()  # a folder that cannot be written is told of before hours of measuring
    for task in tasks(planned):
        results["rows"].append(measure.measure(task, given, planned.seconds))
        log.console.print(page.line(results["rows"][-1]))
        write()
    for row in compare.feeding(planned, given):
        results["fed"].append(row)
        write()
    for row in compare.compare(planned, given, product["platform"]):
        results["compared"].append(row)
        log.console.print(page.compared_line(row))
        write()
    section = page.section([results])
    log.console.print(section)
    write_whole(workdir / page.SECTION, section)
    log.console.print(f"Written: {workdir / page.JSON}, {workdir / page.SECTION}")
