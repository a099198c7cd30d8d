"""The tables of a benchmark, for the terminal and for BENCHMARKS.md.

  python -m pneumojax.benchmark.page BENCHMARKS.md WORKDIR...

puts what was measured in the workdirs between the two marks in BENCHMARKS.md, in place of what is there.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from pneumojax.benchmark.task import FEED
from pneumojax.errors import UserError
from pneumojax.files import markdown_table, write_whole

JSON, SECTION = "benchmark.json", "benchmark.md"
NAME = "benchmark"  # of the marks


def section(benchmarks: Sequence[Mapping]) -> str:
    """What stands in BENCHMARKS.md of one benchmark or several: each with its machine, command and tables."""
    return "\n".join(_one(benchmark) for benchmark in benchmarks)


def _one(benchmark: Mapping) -> str:
    parts = [headline(benchmark), f"```\n{benchmark['command']}\n```", _steps(benchmark)]
    if benchmark["fed"]:
        parts.append(_fed(benchmark))
    if benchmark["compared"]:
        parts.append(_compared(benchmark))
    return "\n\n".join(parts) + "\n"


def headline(benchmark: Mapping) -> str:
    """One paragraph on the machine."""
    machine, product = benchmark["machine"], benchmark["matrix_product"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    device = f" Device: {machine['device']}."
    if machine["platform"] == "cpu":
        device = f" CPU kernels: {'built' if machine['kernels'] else 'not built'}."
    rates = ", ".join(f"{gflops:.0f} GFLOP/s in {precision}" for precision, gflops in product["gflops"].items())
    return (
        f"Machine: {processor(machine)}, {machine['memory_bytes'] / 1e9:.0f} GB of memory, {machine['system']};"
        f" {versions}.{device} A product of two {product['size']} x {product['size']} matrices: {rates}."
    )


def processor(machine: Mapping) -> str:
    """Cores, kind and instructions."""
    instructions = f" with {machine['instructions']}" if machine["instructions"] else ""
    return f"{machine['cores']} cores of {machine['cpu']}{instructions}"


def _steps(benchmark: Mapping) -> str:
    header = (
        "model", "what", "batch", "px", "precision", "devices", "compile, s", "calls", "step, ms (p10-p90)",
        "images/s", "GFLOP/s", "of matrix product", "peak memory, GB",
    )  # fmt: skip
    measured = [row for row in benchmark["rows"] if "reason" not in row]
    shown = markdown_table(header, (_step_row(row, most(benchmark, row)) for row in measured))
    missing = [f"- {line(row)}" for row in benchmark["rows"] if "reason" in row]
    return "\n".join([shown, *(["", *missing] if missing else [])])


def most(benchmark: Mapping, row: Mapping) -> float:
    """GFLOP a second of the matrix product in the row's precision, on all of its devices; a CPU simulates them."""
    count = 1 if benchmark["machine"]["platform"] == "cpu" else row["devices"]
    return count * benchmark["matrix_product"]["gflops"][row["precision"]]


def _step_row(row: Mapping, most: float) -> list[str]:
    step = row["step_s"]
    return [
        row["model"].upper() if row["mode"] != FEED else "",
        row["mode"],
        str(row["batch_size"]),
        str(row["image_size"]),
        row["precision"] if row["mode"] != FEED else "",
        str(row["devices"]),
        f"{row['compile_s']:.1f}" if "compile_s" in row else "",
        str(row["calls"]),
        f"{_milli(step['median'])} ({_milli(step['p10'])}-{_milli(step['p90'])})",
        rate(row["images_per_s"]),
        f"{row['gflops']:.0f}" if "gflops" in row else "",
        f"{row['gflops'] / most:.2f}" if "gflops" in row else "",
        f"{row['peak_bytes'] / 1e9:.2f}",
    ]


def _fed(benchmark: Mapping) -> str:
    ways = sorted({way for row in benchmark["fed"] for way in row["ways"]})
    rows = [
        [row["model"].upper(), str(row["batch_size"]), *(_way(row["ways"].get(way, {"reason": ""})) for way in ways)]
        for row in benchmark["fed"]
    ]
    told = benchmark["benchmark"]
    text = (
        f"How many times as long as `train-augmented` a step takes whose batches are fed, taking turns of"
        f" {told['seconds']:g} s, {told['rounds']} rounds: the median, least and most."
    )
    return "\n\n".join([text, markdown_table(("model", "batch", *ways), rows), _load(benchmark["fed"])])


def _way(told: Mapping) -> str:
    return told["reason"] if "reason" in told else f"{told['median']:.3f} ({told['min']:.3f}-{told['max']:.3f})"


def _compared(benchmark: Mapping) -> str:
    sides = list(benchmark["compared"][0]["sides"])
    header = ("model", "what", "precision", "at", *sides)
    rows = [
        [row["model"].upper(), row["mode"], row["precision"], row["at"], *(_side(row, side) for side in sides)]
        for row in benchmark["compared"]
    ]
    told = benchmark["benchmark"]
    text = (
        "Images a second, each side in its own process, taking turns of"
        f" {told['seconds']:g} s, {told['rounds']} rounds; in brackets, how many times as long as pneumojax it takes"
        " for an image: the median over rounds, least and most. Above 1, pneumojax is faster."
    )
    ways = [f"- {compared_line(row)}" for row in benchmark["compared"]]
    return "\n\n".join([text, markdown_table(header, rows), _load(benchmark["compared"]), "\n".join(ways)])


def _load(rows: Sequence[Mapping]) -> str:
    waiting, foreign = (max(row[name] for row in rows) for name in ("waiting_cores", "foreign_cores"))
    return f"In any turn, the sides that waited took at most {waiting:.2f} cores, all else here {foreign:.2f}."


def _side(row: Mapping, side: str) -> str:
    told = row["sides"].get(side, {"reason": ""})
    if "reason" in told:
        return ""
    shown = rate(told["images_per_s"]) + (f" at {told['batch_size']}" if row["at"] == "own best" else "")
    if side not in row["ratios"]:
        return shown
    ratio = row["ratios"][side]
    return f"{shown} ({ratio['median']:.2f}, {ratio['min']:.2f}-{ratio['max']:.2f})"


def line(row: Mapping) -> str:
    """A row of ours in one line."""
    what = (
        f"{row['model'].upper()} {row['mode']}, batch {row['batch_size']}, {row['image_size']} px, {row['precision']},"
        f" {row['devices']} device{'s' if row['devices'] > 1 else ''}: "
    )
    return what + (f"not measured: {row['reason']}" if "reason" in row else f"{rate(row['images_per_s'])} images/s")


def compared_line(row: Mapping) -> str:
    """A comparison in one line, with the way that each side took, and why some took none."""
    told = []
    for side, found in row["sides"].items():
        if "reason" in found:
            told.append(f"{side} not measured: {found['reason']}")
        else:
            way = f" ({found['way']})" if found["way"] else ""
            told.append(f"{side} {rate(found['images_per_s'])} images/s{way}")
    return f"{row['model'].upper()} {row['mode']}, {row['precision']}, {row['at']}: {'; '.join(told)}"


def rate(value: float) -> str:
    """Images a second."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _milli(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def marks(name: str) -> tuple[str, str]:
    """Between which a page holds what is called `name`."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def insert(text: str, name: str, between: str) -> str:
    """`text` with `between` in place of what stands between the marks of `name`.

    Raises:
      UserError: the marks are not there, or not once.
    """
    begin, end = marks(name)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UserError(f"the page needs the marks {begin} and {end}, once each")
    return f"{text[: text.index(begin)]}{begin}\n\n{between}\n{text[text.index(end) :]}"


def rewrite(argv: Sequence[str], program: str, name: str, section: Callable[[Sequence[Mapping]], str]) -> None:
    """The command `program` with the arguments PAGE WORKDIR...: the section goes between the page's marks of `name`."""
    if len(argv) < 2:
        sys.exit(f"python -m pneumojax.benchmark.{program} BENCHMARKS.md WORKDIR...")
    path = epath.Path(argv[0])
    try:
        benchmarks = [json.loads((epath.Path(workdir) / JSON).read_text()) for workdir in argv[1:]]
        write_whole(path, insert(path.read_text(), name, section(benchmarks)))
    except (UserError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    rewrite(sys.argv[1:], "page", NAME, section)
