"""The tables of a benchmark, in Markdown, and its lines for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from pneumojax.benchmark.tasks import FEED
from pneumojax.runtime.tables import markdown_table
from pneumojax.runtime.wording import counted

BUSY = 0.3  # cores at work for other processes: beyond it, figures are too low, each by another share


def section(benchmark: Mapping[str, Any]) -> str:
    """Return the machine, the command and the tables of a benchmark."""
    parts = [headline(benchmark), f"```\n{benchmark['command']}\n```", _steps(benchmark)]
    if benchmark["fed"]:
        parts.append(_fed(benchmark))
    if benchmark["compared"]:
        parts.append(_compared(benchmark))
    return "\n\n".join(parts) + "\n"


def headline(benchmark: Mapping[str, Any]) -> str:
    """Return one paragraph about the machine."""
    machine, product = benchmark["machine"], benchmark["matrix_product"]
    instructions = f" with {machine['instructions']}" if machine["instructions"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    device = f" Device: {machine['device']}."
    if machine["platform"] == "cpu":
        device = f" CPU kernels: {'built' if machine['kernels'] else 'not built'}."
    rates = ", ".join(f"{gflops:.0f} GFLOP/s in {precision}" for precision, gflops in product["gflops"].items())
    return (
        f"Machine: {counted(machine['cores'], 'core')} of {machine['cpu']}{instructions},"
        f" {machine['memory_bytes'] / 1e9:.0f} GB of memory, {machine['system']}; {versions}.{device}"
        f" Product of two {product['size']} x {product['size']} matrices: {rates}.{busy_warning(benchmark)}"
    )


def busy_warning(benchmark: Mapping[str, Any]) -> str:
    """Return a sentence on other processes that were at work when the machine was measured; empty if none were."""
    busy = benchmark.get("busy_cores", 0.0)
    if busy <= BUSY:
        return ""
    return f" Other processes used {busy:.1f} cores: these figures are too low. Measure again on a quiet machine."


def _steps(benchmark: Mapping[str, Any]) -> str:
    header = (
        "model", "mode", "batch", "px", "precision", "devices", "compile, s", "calls", "step, ms (p10-p90)",
        "images/s", "GFLOP/s", "of matrix product", "peak memory, GB",
    )  # fmt: skip
    measured = [row for row in benchmark["rows"] if "reason" not in row]
    table = markdown_table(header, (_step_cells(row, product_rate(benchmark, row)) for row in measured))
    missing = "".join(f"\n- {line(row)}" for row in benchmark["rows"] if "reason" in row)
    return f"{table}\n{missing}" if missing else table


def product_rate(benchmark: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
    """Return the GFLOP/s of the matrix product in the row's precision, on all of the row's devices; None on a busy CPU.

    A CPU's devices are simulated on the same cores, so they count as one.
    """
    if busy_warning(benchmark):
        return None
    count = 1 if benchmark["machine"]["platform"] == "cpu" else row["devices"]
    return count * benchmark["matrix_product"]["gflops"][row["precision"]]


def _step_cells(row: Mapping[str, Any], product_rate: float | None) -> list[str]:
    step = row["step_s"]
    model, precision = ("", "") if row["mode"] == FEED else (row["model"].upper(), row["precision"])
    return [
        model,
        row["mode"],
        str(row["batch_size"]),
        str(row["image_size"]),
        precision,
        str(row["devices"]),
        f"{row['compile_s']:.1f}" if "compile_s" in row else "",
        str(row["calls"]),
        f"{milliseconds(step['median'])} ({milliseconds(step['p10'])}-{milliseconds(step['p90'])})",
        rate(row["images_per_s"]),
        f"{row['gflops']:.0f}" if "gflops" in row else "",
        f"{row['gflops'] / product_rate:.2f}" if "gflops" in row and product_rate else "",
        f"{row['peak_bytes'] / 1e9:.2f}",
    ]


def _fed(benchmark: Mapping[str, Any]) -> str:
    modes = sorted({mode for row in benchmark["fed"] for mode in row["ways"]})
    rows = [
        [row["model"].upper(), str(row["batch_size"]), *(_ratio(row["ways"].get(mode)) for mode in modes)]
        for row in benchmark["fed"]
    ]
    text = (
        f"Time per step with fed batches, divided by that of `train-augmented`. {_turns(benchmark['benchmark'])}"
        " Each cell has the median over the rounds, and the lowest and highest in brackets."
    )
    return "\n\n".join([text, markdown_table(("model", "batch", *modes), rows), _load(benchmark["fed"])])


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return ""
    return ratio["reason"] if "reason" in ratio else f"{ratio['median']:.3f} ({ratio['min']:.3f}-{ratio['max']:.3f})"


def _turns(plan: Mapping[str, Any]) -> str:
    return f"The processes take turns of {plan['seconds']:g} s, in {counted(plan['rounds'], 'round')}."


def _compared(benchmark: Mapping[str, Any]) -> str:
    sides = list(benchmark["compared"][0]["sides"])
    header = ("model", "mode", "precision", "at", *sides)
    rows = [
        [row["model"].upper(), row["mode"], row["precision"], row["at"], *(side_cell(row, side) for side in sides)]
        for row in benchmark["compared"]
    ]
    text = (
        f"Images per second, each side in its own process. {_turns(benchmark['benchmark'])} In brackets: time per"
        " image divided by that of pneumojax, as the median over the rounds, lowest and highest. Above 1, pneumojax is"
        " faster."
    )
    ways = "\n".join(f"- {compared_line(row)}" for row in benchmark["compared"])
    return "\n\n".join([text, markdown_table(header, rows), _load(benchmark["compared"]), ways])


def _load(rows: Sequence[Mapping[str, Any]]) -> str:
    waiting, foreign = (max(row[name] for row in rows) for name in ("waiting_cores", "foreign_cores"))
    return (
        f"During any turn, the waiting sides used at most {waiting:.2f} cores, and other processes at most"
        f" {foreign:.2f} cores."
    )


def side_cell(row: Mapping[str, Any], side: str) -> str:
    """Format a side's rate in a comparison, with its ratio to pneumojax's; empty where there is no figure."""
    result = row["sides"].get(side)
    if result is None or "reason" in result:
        return ""
    shown = rate(result["images_per_s"]) + (f" at {result['batch_size']}" if row["at"] == "own best" else "")
    if side not in row["ratios"]:
        return shown
    ratio = row["ratios"][side]
    return f"{shown} ({ratio['median']:.2f}, {ratio['min']:.2f}-{ratio['max']:.2f})"


def line(row: Mapping[str, Any]) -> str:
    """Return a row of pneumojax alone as one line."""
    task = (
        f"{row['model'].upper()} {row['mode']}, batch {row['batch_size']}, {row['image_size']} px, {row['precision']},"
        f" {counted(row['devices'], 'device')}: "
    )
    return task + (f"not measured: {row['reason']}" if "reason" in row else f"{rate(row['images_per_s'])} images/s")


def compared_line(row: Mapping[str, Any]) -> str:
    """Return a comparison as one line: the rate of each side and the way it computed, or why it has no figure."""
    parts = []
    for side, result in row["sides"].items():
        if "reason" in result:
            parts.append(f"{side} not measured: {result['reason']}")
        else:
            way = f" ({result['way']})" if result["way"] else ""
            parts.append(f"{side} {rate(result['images_per_s'])} images/s{way}")
    return f"{row['model'].upper()} {row['mode']}, {row['precision']}, {row['at']}: {'; '.join(parts)}"


def rate(value: float) -> str:
    """Format images per second."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def milliseconds(seconds: float) -> str:
    """Format a duration in milliseconds."""
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"
