"""The tables of the documentation: which result each takes its rows from, and how a row is shown.

A column is a heading and a template. A template names fields of a row, as `str.format` does, and may offer
alternatives, separated by "|": the first one without an empty field is shown, and nothing where there is none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

from pneumojax.runtime.tables import markdown_table

Row = dict[str, Any]
Rows = Callable[[Mapping[str, Any]], Sequence[Row]]


class Table(NamedTuple):
    """One table.

    Attributes:
      result: name of the file in `studies/results`, without its suffix.
      rows: the result's figures -> rows; or the name of a list of rows among the figures.
      columns: heading -> template.
    """

    result: str
    rows: str | Rows
    columns: Mapping[str, str]


def render(name: str, figures: Mapping[str, Any]) -> str:
    """Return the table `name` of a result's figures, as Markdown."""
    table = TABLES[name]
    rows = figures[table.rows] if isinstance(table.rows, str) else table.rows(figures)
    return markdown_table(list(table.columns), [[cell(each, row) for each in table.columns.values()] for row in rows])


def cell(template: str, row: Row) -> str:
    """Fill in the first alternative of a template whose fields all have a value."""
    for alternative in template.split("|"):
        if all(row[field] is not None for field in _fields(alternative)):
            return alternative.format_map(row)
    return ""


def _fields(template: str) -> Iterator[str]:
    for _, field, _, _ in Formatter().parse(template):
        if field:
            yield field.partition("[")[0]


# ------------------------------------------------------------------------------------------- rows of --mode=benchmark


def rate(value: float) -> str:
    """Format images a second."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def _steps(figures: Mapping[str, Any]) -> list[Row]:
    """A row for each measured step; a row without a figure has a reason, and is left out."""
    found = []
    for benchmark in figures["benchmarks"]:
        for row in benchmark["rows"]:
            if "reason" in row:
                continue
            times = {name: _milliseconds(seconds) for name, seconds in row["step_s"].items()}
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
    return [given | {side: _side(row, side) for side in SIDES} for given, row in _comparisons(figures)]


def _headline(figures: Mapping[str, Any]) -> list[Row]:
    """The comparisons at one batch size in float32, of the runs with all peers."""
    runs = {benchmark["run"] for benchmark in figures["benchmarks"] if len(benchmark["peers"]) == len(SIDES) - 1}
    return [row for row in _compared(figures) if row["run"] in runs and row["at"] != "own best"]


def _side(row: Mapping[str, Any], side: str) -> str | None:
    found = row["sides"].get(side)
    if found is None or "reason" in found:
        return None
    shown = rate(found["images_per_s"]) + (f" at {found['batch_size']}" if row["at"] == "own best" else "")
    if side not in row["ratios"]:
        return shown
    return shown + " ({median:.2f}, {min:.2f}-{max:.2f})".format(**row["ratios"][side])


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


def _roofline(figures: Mapping[str, Any]) -> list[Row]:
    return [
        row | {name: rate(row[name]) for name in ("roofline_images_per_s", "images_per_s")}
        for row in figures["roofline"]
    ]


SIDES = ("pneumojax", "pneumojax-xla", "keras-tensorflow", "keras-jax", "torch", "torch-compile")
_PEERS = {
    "pneumojax": "{pneumojax}",
    "without CPU kernels": "{pneumojax-xla}",
    "Keras on TensorFlow": "{keras-tensorflow}",
    "Keras on JAX": "{keras-jax}",
    "PyTorch": "{torch}",
    "PyTorch, compiled": "{torch-compile}",
}

# ----------------------------------------------------------------------------------------------------------- tables

_INTERVAL = "{{{0}:.3f}} ({{{0}_low:.3f}}-{{{0}_high:.3f}})|{{{0}:.3f}}"
_RANGE = "{median:.2f} ({min:.2f}-{max:.2f})"
_RATIO = "{ratio[median]:.3f} ({ratio[min]:.3f}-{ratio[max]:.3f})"
_DECODING = {
    "way": "{way}",
    "images/s": "{images_per_s:.0f}",
    "pneumojax is faster by (worst to best turn)": "{ratio[median]:.2f} ({ratio[min]:.2f}-{ratio[max]:.2f})",
    "mean error": "{mean_error:.2f}",
    "worst image": "{worst_error:.2f}",
}
_START = {
    "start to first step": "{what}",
    "cores": "{cores}",
    "starts": "{starts}",
    "median (range)": "{median:.1f} s ({min:.1f}-{max:.1f})|{median:.1f} s",
}

LEARNING = {
    "kermany": Table(
        "kermany-folds",
        "summary",
        {
            "mean ± standard deviation over runs": "{what}",
            "AUC": "{auc:.4f} ± {auc_sd:.4f}|{auc:.4f}",
            "balanced accuracy": "{balanced_accuracy:.4f} ± {balanced_accuracy_sd:.4f}|{balanced_accuracy:.4f}",
            "accuracy": "{accuracy:.3f}",
            "ECE before scaling": "{ece_before:.3f} ± {ece_before_sd:.3f}",
            "ECE after": "{ece_after:.3f} ± {ece_after_sd:.3f}|{ece_after:.3f}",
            "lost under corruptions": "{lost:.3f} ± {lost_sd:.3f}",
        },
    ),
    "kermany-runs": Table(
        "kermany-folds",
        "runs",
        {
            "model": "{model}",
            "recipe": "{recipe}",
            "fold": "{fold}",
            "seed": "{seed}",
            "AUC": "{auc:.3f}",
            "balanced accuracy": "{balanced_accuracy:.3f}",
            "sensitivity, specificity": "{sensitivity:.3f}, {specificity:.3f}",
            "under corruptions": "{corrupted:.3f}",
            "worst corruption": "{worst:.3f}",
            "ECE after scaling": "{ece_after:.3f}",
        },
    ),
    "epochs-to-learn": Table(
        "kermany-folds",
        "epochs_to_learn",
        {"M1": "{recipe}", "epochs to val AUC 0.99": "{epochs}", "steps of an epoch, s": "{seconds} ± {seconds_sd}"},
    ),
    "kermany-viral": Table(
        "kermany-viral",
        "rows",
        {
            "M1": "{recipe}",
            "AUC": _INTERVAL.format("auc"),
            "balanced accuracy": "{balanced_accuracy:.3f}",
            "sensitivity, specificity": "{sensitivity:.3f}, {specificity:.3f}",
            "under corruptions": "{corrupted:.3f}",
            "ECE": "{ece:.3f}",
        },
    ),
    "kermany-28px": Table(
        "kermany-28px",
        "rows",
        {
            "model": "{model}",
            "AUC": "{auc:.3f}",
            "balanced accuracy": "{balanced_accuracy:.3f}",
            "under corruptions": "{corrupted:.3f}|not measured",
            "ECE after scaling": "{ece_after:.3f}|not recorded",
        },
    ),
    "kermany-paper": Table("kermany-paper", "epochs", {"epoch": "{epoch}", "val AUC": "{auc:.3f}"}),
    "augmentation": Table(
        "kermany-augmentation",
        "rows",
        {
            "augmentation of M1, 12 epochs": "{what}",
            "AUC": "{auc:.3f}",
            "balanced accuracy": "{balanced_accuracy:.3f}",
            "under corruptions": "{corrupted:.3f}",
            "specificity of images 1.2 times as tall": "{tall_specificity:.3f}",
        },
    ),
    "epoch-rule": Table(
        "kermany-epoch-rule",
        "rows",
        {
            "run": "{run}",
            "by highest val AUC: under corruptions, worst": "{by_auc:.3f}, {by_auc_worst:.3f}|{by_auc:.3f}",
            "by the last epoch": "{by_last:.3f}, {by_last_worst:.3f}|{by_last:.3f}",
        },
    ),
    "without-effect": Table(
        "kermany-without-effect",
        "rows",
        {
            "tried": "{tried}",
            "compared with": "{base}",
            "AUC: tried, without": "{auc:.3f}, {base_auc:.3f}",
            "under corruptions: tried, without": "{corrupted:.3f}, {base_corrupted:.3f}",
            "worst corruption: tried, without": "{worst:.3f}, {base_worst:.3f}",
        },
    ),
    "elsewhere": Table(
        "elsewhere",
        "rows",
        {
            "evaluated on": "{films}",
            "films": "{count}",
            "AUC": "{auc:.3f}",
            "sensitivity": "{sensitivity:.3f}",
            "specificity": "{specificity:.3f}",
            "accuracy": "{accuracy:.3f}",
            "accuracy at the best threshold there": "{best_accuracy:.3f}",
        },
    ),
    "phantoms": Table(
        "phantoms",
        "rows",
        {
            "model, recipe": "{what}",
            "test AUC": _INTERVAL.format("auc"),
            "test balanced accuracy": _INTERVAL.format("balanced_accuracy"),
            "test accuracy": _INTERVAL.format("accuracy"),
            "wall time": "{wall_time}",
        },
    ),
}

EXPLANATIONS = {
    "explanation-checks": Table(
        "explanation-checks",
        "rows",
        {
            "method": "{method}",
            "untrained": "{untrained:.3f}",
            "deletion": "{deletion:.3f}",
            "insertion": "{insertion:.3f}",
            "hits": "{hits:.3f}",
            "energy": "{energy:.3f}",
            "fails its checks": "{fails}",
        },
    ),
    "captum-agreement": Table(
        "captum-agreement", "rows", {"method": "{method}", "precision": "{precision}", "difference": "{difference:.1e}"}
    ),
    "integrated-gradients-sum": Table(
        "integrated_gradients_sum",
        "rows",
        {
            "baseline": "{baseline}",
            "steps": "{steps}",
            "images": "{images}",
            "off by, %": "{least:.2g} to {most:.2g}|up to {most:.2g}",
        },
    ),
    "explaining": Table(
        "explaining",
        "rows",
        {
            "model": "{model}",
            "method": "{method}",
            "pneumojax, ms": "{pneumojax_ms:.1f}",
            "Captum, ms": "{captum_ms:.1f}",
            "Captum takes so many times as long (range)": "{ratio[median]:.2f} ({ratio[min]:.2f}-{ratio[max]:.2f})",
            "Captum's way": "{way}",
        },
    ),
}

PREDICTING = {
    "predicting": Table(
        "predicting",
        "rows",
        {
            "what": "{what}",
            "images": "{images:,}",
            "images/s": "{images_per_s:.0f}",
            "of inference": "{of_inference:.2f}",
            "peak memory": "{peak_gb:.2f} GB",
            "in the second half": "{late_min_gb:.2f}-{late_max_gb:.2f} GB",
        },
    ),
    "reading": Table("reading", "rows", {"reading by": "{way}", "ms of a core for an image": "{ms:.1f}"}),
    "out-of-distribution": Table(
        "out-of-distribution",
        "rows",
        {
            "images": "{images}",
            "flagged": "{flagged_min:.2f} to {flagged_max:.2f}|{flagged:.2f}",
            "AUC against held-out images": "{auc_min:.2f} to {auc_max:.2f}|{auc:.2f}",
        },
    ),
}

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
        {
            "run": "{run}",
            "what": "{mode}",
            "precision": "{precision}",
            "at": "{at}",
            **dict(list(_PEERS.items())[2:]),
        },
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
    "speed-processors": Table(
        "speed-processors",
        "rows",
        {"CPU": "{cpu}", "what": "{what}", "M1": "{m1}", "M2": "{m2}", "M3": "{m3}"},
    ),
    "feeding-commits": Table(
        "feeding-commits",
        "rows",
        {
            "commit": "{commit}",
            "median (95 %)": "{median:.3f} ({low:.3f}-{high:.3f})",
            "geometric mean": "{mean:.3f}",
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

LOADING = {
    "decoding-large": Table("loading", "large", _DECODING),
    "decoding-small": Table("loading", "small", _DECODING),
    "preparing": Table(
        "loading",
        "preparing",
        {
            "images": "{images:,} {what}",
            "cores": "{cores}",
            "reading, images/s": "{reading_per_s:.0f}",
            "start to end, images/s": "{whole_per_s:.0f}",
            "peak memory": "{peak_gb:.2f} GB",
            "TFDS's share of it": "{shuffled_gb:.2f} GB",
        },
    ),
    "feed": Table(
        "loading",
        "feed",
        {"batch": "{batch}", "first batch, s": "{first_s:.2f}", "images/s, the feed alone": "{images_per_s:,.0f}"},
    ),
    "preparing-chexpert": Table(
        "preparing-chexpert",
        "rows",
        {
            "release": "{release}",
            "reading, 2 cores": "{reading}",
            "all, 2 cores": "{whole}",
            "reading, 64 workers": "{reading_64}",
        },
    ),
    "copies-search": Table("copies_search", "rows", {"images": "{images:,}", "seconds": "{seconds:.0f}"}),
    "start": Table("start", "rows", _START),
    "start-avx2": Table("start-avx2", "rows", _START),
}

AUDIT = {
    "audit": Table(
        "audit",
        "rows",
        {"images": "{what}", "number": "{images:,}", "copies found": "{copies}", "other findings": "{others}"},
    ),
    "broken-files": Table(
        "broken-files",
        "rows",
        {
            "kind": "{kind}",
            "cases": "{cases:,}",
            "read": "{read:,}",
            "refused": "{refused:,}",
            "slowest": "{slowest_s:.2f} s",
            "memory, at most": "+ {memory_mb} MB",
        },
    ),
    "keras-parity": Table(
        "keras-parity", "rows", {"what": "{what}", "error": "{error:.1e}", "allowed": "{allowed:.0e}"}
    ),
}

RUNS = {
    "kills": Table(
        "kills",
        "rows",
        {"killed while": "{phase}", "by": "{signal}", "times": "{times}", "the run, once it has ended": "{end}"},
    ),
    "faults": Table(
        "faults",
        "rows",
        {"fault": "{fault}", "how it is made": "{made}", "outcome": "{outcome}", "tested in": "{test}"},
    ),
    "saving": Table(
        "jobs",
        "saving",
        {
            "model": "{model}",
            "images": "{images:,}",
            "epochs": "{epochs}",
            "saving, s": "{saving_s:.1f}",
            "not saving, s": "{bare_s:.1f}",
            "times as long (range)": _RATIO,
        },
    ),
    "one-save": Table(
        "jobs",
        "one_save",
        {"model": "{model}", "MB": "{size_mb:.0f}", "one save alone, s (range)": _RANGE},
    ),
    "stopping": Table(
        "jobs",
        "stopping",
        {
            "model": "{model}",
            "processes": "{processes}",
            "SIGTERM to the end, s": "{median:.1f}",
            "the slowest, s": "{max:.1f}",
        },
    ),
    "sharing": Table(
        "jobs",
        "sharing",
        {
            "model": "{model}",
            "1 process, images/s": "{one:.1f}",
            "2 processes, images/s": "{two:.1f}",
            "ratio (range)": _RATIO,
        },
    ),
}

TABLES: dict[str, Table] = {
    **LEARNING,
    **EXPLANATIONS,
    **PREDICTING,
    **SPEED,
    **COST,
    **LOADING,
    **AUDIT,
    **RUNS,
}
