"""The tables of the study of a GPU (gpu.py)."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from pneumojax.benchmark.benchmark_tables import milliseconds, rate
from pneumojax.benchmark.tasks import COPY, INFER, MATMUL, OURS, TRAIN
from studies.gpu_given import Row
from studies.table import Table

Figures = Mapping[str, Any]
_MEASURED = ("images_per_s", "tflops", "gb_s", "compile_s", "reason")


def _rows(figures: Figures, step: str, *fields: str) -> list[Row]:
    """Return the rows of a step, with None in the fields that a row lacks, and a reason for those without figures."""
    rows = [dict.fromkeys((*fields, "reason")) | row for row in figures.get(step, [])]
    return [row | {"reason": row["reason"] and row["reason"].replace("|", "/")} for row in rows]  # "|" divides cells


def _steps(figures: Figures) -> list[Row]:
    return _rows(figures, "steps", "seconds", "rows")


def _card(figures: Figures) -> list[Row]:
    return [row for row in _rows(figures, "card", "value") if row["value"] is not None]


def _correctness(figures: Figures) -> list[Row]:
    verdicts = {True: "yes", False: "NO", None: None}
    rows = _rows(figures, "correctness", "what", "difference", "most", "bound", "holds")
    shown = [row | {"model": row["model"].upper(), "verdict": verdicts[row["holds"]]} for row in rows]
    return sorted(shown, key=lambda row: (row["model"], row["step"], row["precision"], row["block"]))


def _peaks(figures: Figures) -> list[Row]:
    return [row for row in _rows(figures, "rates", "size", *_MEASURED) if row["mode"] in (MATMUL, COPY)]


def _rates(figures: Figures) -> list[Row]:
    """Return M1's rates, with the shares of what the card reached in a product of matrices, and in a copy."""
    peaks = _peaks(figures)
    products = {row["precision"]: row["tflops"] for row in peaks if row["tflops"]}
    copied = next((row["gb_s"] for row in peaks if row["gb_s"]), None)
    found = []
    for row in _rows(figures, "rates", "step_s", *_MEASURED):
        if row["mode"] in (MATMUL, COPY):
            continue
        product, step = products.get(row["precision"]), row["step_s"]
        found.append(
            row
            | {
                "model": row["model"].upper(),
                "of_product": row["tflops"] / product if product and row["tflops"] else None,
                "of_copy": row["gb_s"] / copied if copied and row["gb_s"] else None,
                "rate": rate(row["images_per_s"]) if row["images_per_s"] else None,
                "step": f"{milliseconds(step['median'])} ({milliseconds(step['p10'])}-{milliseconds(step['p90'])})"
                if step
                else None,
            }
        )
    return found


def _beside(figures: Figures, step: str, first: str) -> Iterator[Row]:
    """Yield a row for each side but `first`: the rate of both, the ratio, and the way that the side computed."""
    for row in _rows(figures, step, "peer", "model", "mode", "precision", "batch_size"):
        sides, ratios = row.get("sides") or {}, row.get("ratios") or {}
        base = sides.get(first, {})
        shown = row | {"model": row["model"] and row["model"].upper(), "first": _rate_of(base)}
        if not sides:
            yield shown | dict.fromkeys(("side", "rate", "ratio", "way"))
        for name, side in sides.items():
            if name != first:
                reason = side.get("reason") or base.get("reason")
                cells = {"side": name, "rate": _rate_of(side), "ratio": ratios.get(name), "way": side.get("way")}
                yield shown | cells | {"reason": reason}


def _rate_of(side: Mapping[str, Any]) -> str | None:
    return rate(side["images_per_s"]) if "images_per_s" in side else None


def _blocks(figures: Figures) -> list[Row]:
    return list(_beside(figures, "blocks", "fused"))


def _peers(figures: Figures) -> list[Row]:
    return list(_beside(figures, "peers", OURS))


def _determinism(figures: Figures) -> list[Row]:
    return list(_beside(figures, "determinism", "any bits"))


def _resume(figures: Figures) -> list[Row]:
    fields = ("steps", "killed_after", "val_auc", "seconds")
    same = ("state", "metrics", "evaluation")
    words = {True: "equal", False: "DIFFERENT", None: None}
    rows = _rows(figures, "resume", *fields, *same)
    return [row | {name: words[row[name]] for name in same} for row in rows]


def _runs(figures: Figures) -> list[Row]:
    fields = ("epochs", "images", "images_per_s", "seconds", "val_auc", "split", "n", "auc", "balanced_accuracy")
    return [row for step in ("children", "paper") for row in _rows(figures, step, *fields)]


_TASK = {"model": "{model}", "what": "{mode}", "batch": "{batch_size}", "precision": "{precision}"}
_RATIO = "{ratio[median]:.2f} ({ratio[min]:.2f}-{ratio[max]:.2f})"
_WHY = {"not measured, since": "{reason}"}

GPU = {
    "gpu-correctness": Table(
        "gpu",
        _correctness,
        {
            "model": "{model}",
            "step": "{step}",
            "precision": "{precision}",
            "block": "{block}",
            "what": "{what}",
            "relative difference": "{difference:.1e}",
            "bound": "{bound:.0e}",
            "where a maximum moved": "{most:.1e}",
            "within": "{verdict}",
            **_WHY,
        },
    ),
    "gpu-blocks": Table(
        "gpu",
        _blocks,
        {**_TASK, "fused, images/s": "{first}", "plain, images/s": "{rate}", "plain takes": _RATIO, **_WHY},
    ),
    "gpu-peaks": Table(
        "gpu",
        _peaks,
        {
            "what": "{mode}",
            "precision": "{precision}",
            "rows, or bytes": "{size:,}",
            "TFLOP/s": "{tflops:.0f}",
            "GB/s": "{gb_s:.0f}",
            **_WHY,
        },
    ),
    "gpu-rates": Table(
        "gpu",
        _rates,
        {
            **_TASK,
            "compile, s": "{compile_s:.1f}",
            "step, ms (p10-p90)": "{step}",
            "images/s": "{rate}",
            "TFLOP/s": "{tflops:.1f}",
            "of matrix product": "{of_product:.2f}",
            "counted GB/s": "{gb_s:.0f}",
            "of copy": "{of_copy:.2f}",
            **_WHY,
        },
    ),
    "gpu-runs": Table(
        "gpu",
        _runs,
        {
            "run": "{run}",
            "on": "{data}",
            "images": "{images:,}",
            "epochs": "{epochs}",
            "whole command, s": "{seconds:.0f}",
            "steps, images/s": "{images_per_s:.0f}",
            "val AUC": "{val_auc:.4f}",
            "judged on": "{split} ({n})",
            "AUC": "{auc:.4f}",
            "balanced accuracy": "{balanced_accuracy:.4f}",
            "remark": "{reason}",
        },
    ),
    "gpu-resume": Table(
        "gpu",
        _resume,
        {
            "steps": "{steps}",
            "killed after step": "{killed_after}",
            "state": "{state}",
            "metrics": "{metrics}",
            "evaluation": "{evaluation}",
            "val AUC": "{val_auc:.4f}",
            "three runs, s": "{seconds:.0f}",
            **_WHY,
        },
    ),
    "gpu-peers": Table(
        "gpu",
        _peers,
        {
            **_TASK,
            "beside": "{peer}",
            "its way": "{way}",
            "its images/s": "{rate}",
            "pneumojax, images/s": "{first}",
            "it takes": _RATIO,
            **_WHY,
        },
    ),
    "gpu-determinism": Table(
        "gpu",
        _determinism,
        {**_TASK, "any bits, images/s": "{first}", "equal bits, images/s": "{rate}", "equal bits take": _RATIO, **_WHY},
    ),
    "gpu-card": Table("gpu", _card, {"what": "{what}", "value": "{value}"}),
    "gpu-steps": Table(
        "gpu",
        _steps,
        {
            "step": "{step}",
            "what": "{summary}",
            "outcome": "{outcome}",
            "s": "{seconds:.0f}",
            "rows": "{rows}",
            "remark": "{reason}",
        },
    ),
}


def shown(figures: Figures) -> list[str]:
    """Name the tables that have rows."""
    return [name for name, table in GPU.items() if callable(table.rows) and table.rows(figures)]


def better(figures: Figures) -> dict[str, bool | None]:
    """Return for TRAIN and INFER whether the fused block is the faster one; None where nothing was compared.

    It is where the plain block takes longer, in the geometric mean over models and precisions.
    """
    found: dict[str, bool | None] = {}
    for mode in (TRAIN, INFER):
        ratios = [row["ratio"]["median"] for row in _blocks(figures) if row["ratio"] and row["mode"] == mode]
        found[mode] = statistics.geometric_mean(ratios) >= 1 if ratios else None
    return found


def advice(figures: Figures) -> str:
    """Return the line of models/block_choice.py that is right on this card."""
    found = better(figures)
    if None in found.values():
        return "Which block is faster on this GPU was not measured."
    return f"In pneumojax/models/block_choice.py: ON_GPU = Fused(train={found[TRAIN]}, infer={found[INFER]})"
