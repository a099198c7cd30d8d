"""The documentation's tables of speed: what --mode=benchmark measured, the cost model, and other runtimes."""

from collections.abc import Iterator, Mapping
from typing import Any

from pneumojax.benchmark.benchmark_tables import milliseconds, rate, side_cell
from studies.table import Row, Table

SIDES = ("pneumojax", "pneumojax-xla", "keras-tensorflow", "keras-jax", "torch", "torch-compile")
RUNTIMES = ("pneumojax", "pneumojax-load", "onnxruntime", "onnxruntime-logit", "openvino", "openvino-logit")
_PEERS = {
    "pneumojax": "{pneumojax}",
    "without CPU kernels": "{pneumojax-xla}",
    "Keras on TensorFlow": "{keras-tensorflow}",
    "Keras on JAX": "{keras-jax}",
    "PyTorch": "{torch}",
    "PyTorch, compiled": "{torch-compile}",
}


def _steps(figures: Mapping[str, Any]) -> list[Row]:
    """A row for each measured step; a row without a figure has a reason, and is left out."""
    found = []
    for benchmark in figures["benchmarks"]:
        for row in benchmark["rows"]:
            if "reason" in row:
                continue
            times = {name: milliseconds(seconds) for name, seconds in row["step_s"].items()}
            feed = row["mode"] == "feed"
            found.append(
                dict.fromkeys(("compile_s", "gflops", "of_product"))
                | row
                | {
                    "run": benchmark["run"],
                    "model": None if feed else row["model"].upper(),
                    "precision": None if feed else row["precision"],
                    "step": f"{times['median']} ({times['p10']}-{times['p90']})",
                    "rate": rate(row["images_per_s"]),
                    "peak_gb": row["peak_bytes"] / 1e9,
                }
            )
    return found


def _comparisons(figures: Mapping[str, Any]) -> Iterator[tuple[Row, Mapping[str, Any]]]:
    """Each comparison of a benchmark: its row's first cells, and the comparison."""
    for benchmark in figures["benchmarks"]:
        for row in benchmark["compared"]:
            given = {name: row[name] for name in ("mode", "precision", "at")}
            yield {"run": benchmark["run"], "model": row["model"].upper()} | given, row


def _compared(figures: Mapping[str, Any]) -> list[Row]:
    return [given | {side: side_cell(row, side) for side in SIDES} for given, row in _comparisons(figures)]


def _headline(figures: Mapping[str, Any]) -> list[Row]:
    """The comparisons at one batch size in float32, of the runs with all peers."""
    runs = {benchmark["run"] for benchmark in figures["benchmarks"] if len(benchmark["peers"]) == len(SIDES) - 1}
    return [row for row in _compared(figures) if row["run"] in runs and row["at"] != "own best"]


def _ways(figures: Mapping[str, Any]) -> list[Row]:
    return [
        given | {side: (row["sides"].get(side) or {}).get("way") or None for side in SIDES[2:]}
        for given, row in _comparisons(figures)
    ]


def _runs(figures: Mapping[str, Any]) -> list[Row]:
    return [
        {
            "run": benchmark["run"],
            "command": benchmark["command"],
            "float32": benchmark["matrix_product"]["gflops"].get("float32"),
            "bfloat16": benchmark["matrix_product"]["gflops"].get("bfloat16"),
            "waiting_cores": benchmark["waiting_cores"],
            "foreign_cores": benchmark["foreign_cores"],
        }
        for benchmark in figures["benchmarks"]
    ]


def _fed(figures: Mapping[str, Any]) -> list[Row]:
    return [
        {"model": row["model"].upper(), "batch_size": row["batch_size"], "rounds": benchmark["rounds"]}
        | {"seconds": benchmark["seconds"], "way": way}
        | ratio
        for benchmark in figures["benchmarks"]
        for row in benchmark["fed"]
        for way, ratio in row["ways"].items()
        if "reason" not in ratio
    ]


def _beside_runtimes(figures: Mapping[str, Any]) -> list[Row]:
    """A row for each model and batch size: rates, the fastest ways of the runtimes, and what else the machine did."""
    return [
        {name: row[name] for name in ("model", "at", "waiting_cores", "foreign_cores")}
        | {side: side_cell(row, side) for side in RUNTIMES}
        | {f"way of {side}": row["sides"].get(side, {}).get("way") for side in RUNTIMES}
        for row in figures["rows"]
    ]


def _roofline(figures: Mapping[str, Any]) -> list[Row]:
    return [
        row | {name: rate(row[name]) for name in ("roofline_images_per_s", "images_per_s")}
        for row in figures["roofline"]
    ]


SPEED = {
    "speed": Table("speed", _headline, {"model": "{model}", "what": "{mode}", **_PEERS}),
    "speed-steps": Table(
        "speed",
        _steps,
        {
            "run": "{run}",
            "model": "{model}",
            "what": "{mode}",
            "batch": "{batch_size}",
            "px": "{image_size}",
            "precision": "{precision}",
            "devices": "{devices}",
            "compile, s": "{compile_s:.1f}",
            "calls": "{calls}",
            "step, ms (p10-p90)": "{step}",
            "images/s": "{rate}",
            "GFLOP/s": "{gflops:.0f}",
            "of matrix product": "{of_product:.2f}",
            "peak memory, GB": "{peak_gb:.2f}",
        },
    ),
    "speed-compared": Table(
        "speed",
        _compared,
        {"run": "{run}", "model": "{model}", "what": "{mode}", "precision": "{precision}", "at": "{at}", **_PEERS},
    ),
    "speed-ways": Table(
        "speed",
        _ways,
        {"run": "{run}", "what": "{mode}", "precision": "{precision}", "at": "{at}", **dict(list(_PEERS.items())[2:])},
    ),
    "speed-runs": Table(
        "speed",
        _runs,
        {
            "run": "{run}",
            "matrix product, GFLOP/s in float32": "{float32:.0f}",
            "in bfloat16": "{bfloat16:.0f}",
            "cores taken by waiting sides, at most": "{waiting_cores:.2f}",
            "by other processes": "{foreign_cores:.2f}",
            "command": "`{command}`",
        },
    ),
    "speed-fed": Table(
        "speed",
        _fed,
        {
            "model": "{model}",
            "batch": "{batch_size}",
            "way": "{way}",
            "turns": "{rounds}",
            "seconds a turn": "{seconds:g}",
            "times as long as train-augmented (range)": "{median:.3f} ({min:.3f}-{max:.3f})",
        },
    ),
    "runtimes": Table(
        "runtimes",
        _beside_runtimes,
        {
            "model": "{model}",
            "at": "{at}",
            "pneumojax": "{pneumojax}",
            "pneumojax.load": "{pneumojax-load}",
            "ONNX Runtime": "{onnxruntime}",
            "its logit alone": "{onnxruntime-logit}",
            "OpenVINO": "{openvino}",
            "its logit alone ": "{openvino-logit}",
        },
    ),
    "runtimes-ways": Table(
        "runtimes",
        _beside_runtimes,
        {
            "model": "{model}",
            "at": "{at}",
            "ONNX Runtime": "{way of onnxruntime}",
            "its logit alone": "{way of onnxruntime-logit}",
            "OpenVINO": "{way of openvino}",
            "its logit alone ": "{way of openvino-logit}",
            "cores taken by waiting sides, at most": "{waiting_cores:.2f}",
            "by other processes": "{foreign_cores:.2f}",
        },
    ),
    "speed-processors": Table(
        "speed-processors", "rows", {"CPU": "{cpu}", "what": "{what}", "M1": "{m1}", "M2": "{m2}", "M3": "{m3}"}
    ),
    "feeding-commits": Table(
        "feeding-commits",
        "rows",
        {"commit": "{commit}", "median (95 %)": "{median:.3f} ({low:.3f}-{high:.3f})", "geometric mean": "{mean:.3f}"},
    ),
    "feeding-parser": Table(
        "feeding-parser",
        "rows",
        {
            "run": "{run}",
            "step, ms": "{step_ms:.0f}",
            "times as long as train-augmented (range)": "{median:.3f} ({min:.3f}-{max:.3f})",
            "cores of other programs, at most": "{foreign_cores:.2f}",
        },
    ),
    "feeding-overlap": Table(
        "feeding_overlap",
        "rows",
        {
            "commit": "{commit}",
            "a batch comes": "{side}",
            "median (95 %)": "{median:.3f} ({low:.3f}-{high:.3f})",
            "geometric mean": "{mean:.3f}",
        },
    ),
}

COST = {
    "cost-counted": Table(
        "cost",
        "counted",
        {
            "model": "{model}",
            "parameters": "{parameters:,}",
            "GFLOP an image, forward": "{forward_gflop:.2f}",
            "training, GFLOP": "{training_gflop:.2f}",
            "MB an image, forward": "{forward_mb:.1f}",
            "training, MB": "{training_mb:.1f}",
            "MB a step": "{step_mb:.0f}",
            "FLOP a byte, training at batch 32": "{flop_a_byte:.0f}",
        },
    ),
    "cost-growth": Table(
        "cost",
        "growth",
        {
            "model": "{model}",
            "px": "{image_size}",
            "training, GFLOP an image": "{training_gflop:.2f}",
            "training, MB an image": "{training_mb:.1f}",
            "parameters, millions": "{parameters_millions:.2f}",
        },
    ),
    "cost-ring": Table("cost", "ring", {"model": "{model}", "devices": "{devices}", "MB a step": "{sent_mb:.1f}"}),
    "links": Table(
        "links",
        "rows",
        {
            "model": "{model}",
            "processes": "{processes}",
            "link": "{gbit} Gbit/s|not limited",
            "MB a step": "{sent_mb:.1f}",
            "ms a step": "{step_ms:.0f}",
            "added by the link, ms (range)": "{added_ms[median]:.0f} ({added_ms[min]:.0f} to {added_ms[max]:.0f})|",
            "the ring's bytes at this rate, ms": "{ring_ms:.0f}|",
        },
    ),
    "cost-h100": Table(
        "cost",
        "h100",
        {
            "model": "{model}",
            "what": "{mode}",
            "bfloat16": "{bfloat16[images_per_s]:,.0f} ({bfloat16[bound]})",
            "TF32": "{TF32[images_per_s]:,.0f} ({TF32[bound]})",
            "float32": "{float32[images_per_s]:,.0f} ({float32[bound]})",
        },
    ),
    "cost-rates": Table(
        "cost",
        "rates",
        {
            "machine": "{machine}",
            "precision": "{precision}",
            "product of matrices, GFLOP/s": "{gflops:.0f}",
            "copy in memory, GB/s": "{memory_gb_s:.1f}",
        },
    ),
    "cost-roofline": Table(
        "cost",
        _roofline,
        {
            "model": "{model}",
            "what": "{mode}",
            "batch": "{batch_size}",
            "px": "{image_size}",
            "precision": "{precision}",
            "FLOPs, ms an image": "{compute_ms:.2f}",
            "bytes, ms an image": "{memory_ms:.2f}",
            "images/s at the roofline": "{roofline_images_per_s}",
            "measured, images/s": "{images_per_s}",
            "share of the roofline": "{share:.2f}",
        },
    ),
    "cost-paper": Table(
        "cost",
        "paper_day",
        {
            "model": "{model}",
            "precision": "{precision}",
            "images/s": "{images_per_s:.0f}",
            "hours for the paper's day": "{hours:.2f}",
            "times the paper's rate": "{times:.0f}",
        },
    ),
    "cost-chexpert": Table(
        "cost",
        "chexpert",
        {
            "devices": "{devices}",
            "batch": "{batch}",
            "steps": "{steps:,}",
            "computing, ms a step": "{computing_ms:.3g}",
            "sending, ms a step": "{sending_ms:.3g}",
            "hours": "{hours:.2f}",
            "images/s": "{images_per_s:,.0f}",
            "efficiency": "{efficiency:.2f}",
        },
    ),
}
