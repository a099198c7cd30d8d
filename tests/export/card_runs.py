"""A run's workdir with every file that a model card reads, and a card's tables as a parser of Markdown sees them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath
from markdown_it import MarkdownIt

from pneumojax.data import splits as splitting
from pneumojax.data.source import Record, split_of
from pneumojax.evaluation import calibration, metrics, results
from pneumojax.evaluation.corruptions import CLEAN, CORRUPTIONS
from pneumojax.evaluation.neighbours import Index
from pneumojax.export.card import card
from pneumojax.inference import faithfulness, report_pictures
from pneumojax.inference.report_pictures import Pictures
from pneumojax.inference.trained_model import Member, TrainedModel
from pneumojax.inference.worst_errors import WorstError
from pneumojax.models import create
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.workflows import model_card

PARITY = {
    "films": 96,
    "source": "/home/someone/films",
    "safetensors": {"logit": 0.0},
    "onnx": {"logit": 7.25e-7, "probability": {"largest": 0.01325}, "decisions_turned": 0},
}
EXPORT = "pneumojax --mode=export --workdir=RUN"
PLACES = {"train": (60, 80), "val": (50, 70), "test": (30, 45)}  # normal, pneumonia


def records(sites: tuple[str, ...] = ("",)) -> list[Record]:
    """Return the records of a source, in which each site has the same images."""
    return [
        Record(f"{site}/{name}".lstrip("/"), label, name, split)
        for site in sites
        for split, counts in PLACES.items()
        for label in (0, 1)
        for name in (f"{split}/{label}/film{i:03d}.png" for i in range(counts[label]))
    ]


def write_run(
    folder: Path, notice: str = "", sites: tuple[str, ...] = ("",), seed: int = 0, place: str = ""
) -> epath.Path:
    """Write a run: real files, computed from drawn logits."""
    workdir = epath.Path(folder)
    workdir.mkdir(parents=True, exist_ok=True)
    found = records(sites)
    splits = splitting.as_given(found)
    own = ",".join(f"{site}={folder}/images/{site}" for site in sites) if sites[0] else f"{folder}/images/chests"
    place = place or own
    fields = {"data.source": place, "data.split_seed": 3, "epochs": 7, "optimizer.learning_rate": 2e-4, "seed": seed}
    config = configs.with_fields(configs.load("m2:paper"), fields | {"model.image_size": 32})
    table = splitting.to_csv(splits, found)
    (workdir / workdirs.SPLITS).write_text(table)
    (workdir / workdirs.REMARKS).write_text("Audit: 335 images; nothing found.\nval is given, grouped by patient.\n")
    identity = configs.new_identity(config, table, "digest")
    configs.write(config, workdir / workdirs.CONFIG, identity)
    logits = {name: draw(members, number + 10 * seed) for number, (name, members) in enumerate(splits.items())}
    fitted = calibration.fit(labels_of(splits["val"]), logits["val"])
    origin = {"source": place, "epoch": 5, "run": identity.id} | ({"notice": notice} if notice else {})
    for name, members in splits.items():
        results.write(workdir, name, split_of(name, members, lambda places: places), logits[name], fitted, origin)
    elsewhere = origin | {"source": f"{folder}/other_hospital", "unlike_training": 7, "known_images": 1}
    other = split_of("all", splits["test"], lambda places: places)
    results.write(workdir, "other_hospital-all", other, draw(splits["test"], 9, 0.3), fitted, elsewhere)
    write_groups(workdir, splits["test"], logits["test"], fitted)
    summaries = {
        name: results.summarize(labels_of(splits["test"]), draw(splits["test"], 20 + number), fitted)
        for number, name in enumerate((CLEAN, *CORRUPTIONS))
    }
    results.write_corruptions(workdir, "test", summaries)
    write_checks(workdir)
    write_pictures(workdir)
    return workdir


def labels_of(members: tuple[Record, ...]) -> np.ndarray:
    return np.array([record.label for record in members])


def draw(members: tuple[Record, ...], seed: int, shift: float = 1.5) -> np.ndarray:
    """Draw logits: higher by twice `shift` where there is pneumonia."""
    labels = labels_of(members)
    return np.random.default_rng(seed).normal(0, 1, len(labels)) + shift * (2 * labels - 1)


def write_groups(workdir, members, logits, fitted) -> None:
    """Add groups to the evaluation of test: two views, and an age band of one class."""
    labels, path = labels_of(members), workdir / workdirs.EVALUATION / "test.json"
    content = json.loads(path.read_text())
    chosen = {("view", "AP"): np.arange(len(labels)) % 3 > 0, ("view", "PA"): np.arange(len(labels)) % 3 == 0}
    chosen[("age", "0-5")] = labels == 1
    content["groups"] = [
        {"by": column, "group": value} | dict(results.summarize(labels[mask], logits[mask], fitted))
        for (column, value), mask in chosen.items()
    ]
    path.write_text(json.dumps(content))


def write_checks(workdir) -> None:
    """Measure two methods on drawn images, as --mode=explain does."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16)).astype(np.uint8)
    methods = {"good": lambda image: image / 255.0 - 0.5, "flat": lambda image: np.arange(256.0).reshape(16, 16)}
    untrained = {name: lambda image, seed: np.random.default_rng(seed).normal(size=(16, 16)) for name in methods}
    masks = [np.eye(16) > 0] * 4
    found = faithfulness.check(methods, untrained, images, lambda batch: batch.mean((1, 2)) / 255, masks, 0.5)
    path = workdir / workdirs.EXPLANATION_CHECKS
    path.parent.mkdir()
    path.write_text(json.dumps({"split": "test", "images": 4, "epoch": 5, "methods": found}))


def write_pictures(workdir) -> None:
    """Write two worst errors."""
    gray, colored = np.full((8, 8), 90, np.uint8), np.full((8, 8, 3), 30, np.uint8)
    errors = [
        WorstError("secret id", 0, 0.98765, gray, colored, True, []),
        WorstError("b", 1, 0.0123, gray, colored, False, []),
    ]
    report_pictures.write(workdir, Pictures([], errors))


def trained(workdir: epath.Path) -> TrainedModel:
    """Return a model whose calibration is that of the run."""
    val = json.loads((workdir / workdirs.EVALUATION / "val.json").read_text())
    fitted = calibration.Calibration(**{name: val[name] for name in calibration.Calibration._fields})
    index = Index(np.array(["a"]), np.zeros(1, np.uint8), np.ones((1, 1), np.float32), 0.4375)
    return TrainedModel("m2", "0123456789abcdef", [Member(create("m2"), {}, index)], fitted, 32)


class Table(NamedTuple):
    """A table of a document: the headings above it, its header, and its rows."""

    headings: tuple[str, ...]
    header: list[str]
    rows: list[list[str]]


def outline(markdown: str) -> tuple[list[str], list[Table], list]:
    """Return the headings of a document, its tables, and all tokens, as a parser of Markdown finds them."""
    body = markdown.split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    headings, tables, above = [], [], []
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            level = int(token.tag[1])
            above = [*above[: level - 1], *[""] * (level - 1 - len(above)), shown(tokens[position + 1])]
            headings.append(above[-1])
        elif token.type == "table_open":
            tables.append(Table(tuple(above), [], []))
        elif token.type == "tr_open":
            tables[-1].rows.append([])
        elif token.type == "inline" and tokens[position - 1].type in ("td_open", "th_open"):
            tables[-1].rows[-1].append(shown(token))
    return headings, [table._replace(header=table.rows[0], rows=table.rows[1:]) for table in tables], tokens


def shown(token) -> str:
    """Return the text that a reader sees."""
    return "".join(part.content for part in token.children if part.type in ("text", "code_inline", "html_inline"))


def wilson(part: int, whole: int) -> tuple[float, float, float]:
    return part / whole, *metrics.wilson(part, whole)


def facts_of(workdir, **changes):
    return model_card.facts_of(workdir, trained(workdir), **({"parity": PARITY, "commands": [EXPORT]} | changes))


def card_of(workdir, **changes) -> str:
    return card(facts_of(workdir, **changes))


def content_of(workdir, name):
    return json.loads((workdir / name).read_text())


def tables_of(markdown: str, heading: str) -> list:
    """Return the tables whose nearest heading is this."""
    found = [table for table in outline(markdown)[1] if table.headings[-1] == heading]
    assert found, heading
    return found
