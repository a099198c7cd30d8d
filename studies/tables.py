"""The tables of the documentation; those of speed are in speed_tables.py."""

from collections.abc import Mapping
from typing import Any

from pneumojax.runtime.tables import markdown_table
from studies.elsewhere_tables import ELSEWHERE
from studies.gpu_tables import GPU
from studies.loading_tables import LOADING
from studies.service_tables import HOSPITAL, TRYING
from studies.speed_tables import COST, SPEED
from studies.table import Table, cell

_INTERVAL = "{{{0}:.3f}} ({{{0}_low:.3f}}-{{{0}_high:.3f}})|{{{0}:.3f}}"
_RANGE = "{median:.2f} ({min:.2f}-{max:.2f})"
_RATIO = "{ratio[median]:.3f} ({ratio[min]:.3f}-{ratio[max]:.3f})"

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
    "children-and-adults": Table(
        "children-and-adults",
        "rows",
        {
            "class weights": "`{class_weights}`",
            "split": "{split}",
            "site": "{site}",
            "films": "{n}",
            "pneumonia": "{positives}",
            "AUC (95 %)": "{auc:.3f} ({auc_low:.3f}-{auc_high:.3f})",
            "sensitivity": "{sensitivity:.3f}",
            "specificity": "{specificity:.3f}",
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
            "of the bound": "{of_bound:.2f}",
            "peak memory": "{peak_gb:.2f} GB",
            "in the second half": "{late_min_gb:.2f}-{late_max_gb:.2f} GB",
        },
    )
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
            "read or repaired": "{read:,}",
            "refused": "{refused:,}",
            "slowest": "{slowest_s:.2f} s",
            "memory, at most": "+ {memory_mb} MB",
        },
    ),
    "export-parity": Table(
        "export_parity",
        "rows",
        {
            "model": "{model}",
            "films": "{films} of {of}",
            "prevalence": "{prevalence}",
            "squares: logit": "{squares[logit]:.1e}",
            "map": "{squares[map]:.1e}",
            "decisions turned": "{squares[decisions_turned]}",
            "files: probability": "{files[probability]:.1e}",
            "decisions turned ": "{files[decisions_turned]}",
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
        "jobs", "one_save", {"model": "{model}", "MB": "{size_mb:.0f}", "one save alone, s (range)": _RANGE}
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

# Results that no machine has given yet -> the command that gives them. Until then, their tables say so.
AWAITED = {"gpu": "make gpu"}

TABLES: dict[str, Table] = {
    **LEARNING, **ELSEWHERE, **EXPLANATIONS, **PREDICTING, **SPEED, **COST, **LOADING, **AUDIT, **RUNS, **HOSPITAL,
    **TRYING, **GPU,
}  # fmt: skip


def render(name: str, figures: Mapping[str, Any]) -> str:
    """Return the table `name` of a result's figures, as Markdown."""
    table = TABLES[name]
    rows = figures[table.rows] if isinstance(table.rows, str) else table.rows(figures)
    return markdown_table(list(table.columns), [[cell(each, row) for each in table.columns.values()] for row in rows])
