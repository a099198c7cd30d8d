"""Measure what some tens of labelled films of a site are worth: --mode=calibrate on samples, scored on the other films.

  python -m studies.site_calibration RUN --site FOLDER [--column read_by=radiologist] [--draws=200] --output FILE

RUN is the workdir of a model that never saw the site; FOLDER has class folders and a CSV. Films whose column has
another value are left out. Films are drawn by patient, and scored on patients that were not drawn.

ECE in 15 bins is biased upward in small samples. So the table has beside it the ECE that perfect probabilities would
have there, on average over drawn labels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from pneumojax.data.source import DEFAULTS, Record, from_source
from pneumojax.data.sources import open_source
from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import forward, metrics, prevalence, site_fit
from pneumojax.evaluation.calibration import Calibration
from pneumojax.inference.restore import load
from pneumojax.runtime import allocator, sharding
from pneumojax.workflows.run_config import read_config
from studies import study

COUNTS = (10, 20, 50, 100)
PERFECT_DRAWS = 20  # of labels, for the ECE of perfect probabilities


def logits_at(workdir: epath.Path, folder: Path, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Calibration]:
    """Return labels, logits and patients of the site's films, and the model's own calibration."""
    config, layout = read_config(workdir), sharding.layout(jax.local_devices())
    name, _, value = column.partition("=")
    source = open_source(str(folder), DEFAULTS._replace(columns=name))
    records: list[Record] = [
        record for record in source.records if not name or dict(record.metadata).get(name) == value
    ]
    split = from_source(source, "site", records, config.model.image_size)
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        evaluator = forward.Evaluator(trained.model, layout, config.evaluation.batch_size)
        logits = evaluator.outputs(trained.variables, split).logits.astype(np.float64)
    patients = np.array([record.patient for record in records])
    return split.labels.astype(int), logits, patients, trained.calibration


def scores(
    labels: np.ndarray, logits: np.ndarray, calibration: Calibration, rng: np.random.Generator
) -> dict[str, float]:
    """Score a calibration on films."""
    p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    reached = p >= calibration.threshold
    sensitivity, specificity = reached[labels == 1].mean(), (~reached[labels == 0]).mean()
    best = p >= metrics.best_threshold(labels, p)
    most = (best[labels == 1].mean() + (~best[labels == 0]).mean()) / 2
    drawn = (rng.random((PERFECT_DRAWS, len(p))) < p).astype(int)
    perfect = np.mean([metrics.expected_calibration_error(each, p) for each in drawn])
    return {
        "ece": metrics.expected_calibration_error(labels, p),
        "ece_of_perfect": float(perfect),
        "balanced_accuracy": float((sensitivity + specificity) / 2),
        "lost": float(most - (sensitivity + specificity) / 2),
        "sensitivity": float(sensitivity),
        "specificity": float(specificity),
    }


def sample(labels: np.ndarray, patients: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw patients until there are as many films, of both classes; return which films are drawn, (n,) bool."""
    while True:
        order = rng.permutation(np.unique(patients))
        sizes = np.cumsum([np.sum(patients == patient) for patient in order])
        drawn = np.isin(patients, order[: np.searchsorted(sizes, count) + 1])
        if len(np.unique(labels[drawn])) == 2 and len(np.unique(labels[~drawn])) == 2:
            return drawn


def plain(labels: np.ndarray, logits: np.ndarray, of_val: Calibration) -> Calibration:
    """Fit as on val: without a prior, and with the threshold that is best on these films."""
    return calibrations.fit(labels, logits)


def curve(
    labels: np.ndarray, logits: np.ndarray, patients: np.ndarray, of_val: Calibration, draws: int
) -> list[dict[str, Any]]:
    """Return the mean scores for each number of films, by --mode=calibrate and by a plain fit."""
    rows = []
    for count in (0, *COUNTS):
        ways = {"as trained": lambda labels, logits, model: model} if not count else {
            "--mode=calibrate": site_fit.calibrated,
            "fit as on val": plain,
        }  # fmt: skip
        for way, fit in ways.items():
            rng = np.random.default_rng(count)
            measured, films, enough = [], [], []
            for number in range(draws):
                drawn = sample(labels, patients, count or COUNTS[-1], rng)
                measured.append(scores(labels[~drawn], logits[~drawn], fit(labels[drawn], logits[drawn], of_val), rng))
                films.append(int(drawn.sum()) if count else 0)
                if way == "--mode=calibrate" and number < draws // 4:
                    enough.append(site_fit.fit(labels[drawn], logits[drawn], of_val, resamples=200).enough)
            rows.append(row(way, count, measured, films, enough))
    return rows


def row(way: str, count: int, measured: list[dict[str, float]], films: list[int], enough: list[bool]) -> dict[str, Any]:
    """Return the means over draws, and the spread of some."""
    found: dict[str, Any] = {"way": way, "films": count, "drawn": float(np.mean(films)), "draws": len(measured)}
    for name in measured[0]:
        values = [each[name] for each in measured]
        found |= {name: float(np.mean(values)), f"{name}_sd": float(np.std(values, ddof=1))}
    found["lost_90"] = float(np.quantile([each["lost"] for each in measured], 0.9))
    return found | {"enough": float(np.mean(enough)) if enough else None}


def shares(
    labels: np.ndarray, logits: np.ndarray, of_val: Calibration, val: tuple[np.ndarray, np.ndarray], draws: int
) -> list[dict[str, Any]]:
    """Estimate the share of pneumonia without labels: at the site, and on val where its share was changed."""
    found = []
    rng = np.random.default_rng(0)
    for name, own in (("the site", (labels, logits)), ("val", val)):
        for share in (0.1, 0.3, 0.5, 0.7):
            errors: dict[str, list[float]] = {"em": [], "shift": []}
            trusted = []
            classes = [np.flatnonzero(own[0] == label) for label in (0, 1)]
            most = [int(len(members) / part) for members, part in zip(classes, (1 - share, share), strict=True)]
            films = min(100, *most)
            positives = round(share * films)
            for _ in range(draws):
                chosen = np.concatenate([
                    rng.choice(classes[0], films - positives, replace=False),
                    rng.choice(classes[1], positives, replace=False),
                ])  # fmt: skip
                scale = (of_val.temperature, of_val.offset, of_val.prevalence)
                estimate = prevalence.estimate(own[1][chosen], scale, val, of_val.threshold)
                errors["em"].append(estimate.em.share)
                errors["shift"].append(estimate.shift.share if estimate.shift else np.nan)
                trusted.append(estimate.trusted)
            found.append({
                "where": name, "share": share, "films": films, "draws": draws,
                "em": float(np.mean(errors["em"])), "em_sd": float(np.std(errors["em"], ddof=1)),
                "shift": float(np.mean(errors["shift"])), "shift_sd": float(np.std(errors["shift"], ddof=1)),
                "trusted": float(np.mean(trusted)),
            })  # fmt: skip
    return found


def figures(options: Any) -> Mapping[str, Any]:
    """Measure everything."""
    from pneumojax.evaluation import neighbours
    from pneumojax.models.architectures import HEAD_UNITS

    workdir = epath.Path(options.run)
    labels, logits, patients, of_val = logits_at(workdir, options.site, options.column)
    index = neighbours.read(workdir, HEAD_UNITS)
    val = index.val_labels.astype(int), index.val_logits.astype(np.float64)
    found: dict[str, Any] = {
        "site": {
            "films": len(labels), "positives": int(labels.sum()), "auc": metrics.auc(labels, logits),
            "auc_ci": list(metrics.auc_interval(labels, logits)),
        },
        "rows": curve(labels, logits, patients, of_val, options.draws),
    }  # fmt: skip
    if len(val[0]):
        found["prevalence"] = shares(labels, logits, of_val, val, max(options.draws // 10, 5))
    return found


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("run", help="workdir of a model that never saw the site, evaluated by this version")
    parser.add_argument("--site", type=Path, required=True, help="labelled films of the site")
    parser.add_argument("--column", default="", help="column and value of the films to use, as read_by=radiologist")
    parser.add_argument("--draws", type=int, default=200, help="samples for each number of films")
    allocator.keep_freed()
    options = parser.parse_args(argv)
    study.finish("site_calibration", argv, figures(options), ["site-calibration", "prevalence"], options.output)


if __name__ == "__main__":
    study.run(main)
