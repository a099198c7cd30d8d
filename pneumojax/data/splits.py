"""Which images are trained on, chosen by, and only looked at."""

import csv
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pneumojax.data.records import CLASSES, WHOLE, Record
from pneumojax.errors import UserError
from pneumojax.files import csv_table

PAPERS_SUBSET = (1082, 6517)  # Huynh et al.: normal and pneumonia images to train on
MIN_PER_CLASS = 50  # a val split with fewer images of either class is too small to choose a model by

HELD_OUT = "held_out"  # the split of what cross-validation, or a pattern, keeps from training
_IMPORTANCE = ("test", HELD_OUT, "val", "val_given", WHOLE, "train")

Splits = dict[str, tuple[Record, ...]]


class Carving(NamedTuple):
    """How train is divided further.

    Attributes:
      seed: of the drawing of val and test, and of a subset.
      val_fraction: share of train's images, in (0, 1), where no val split is given.
      test_fraction: share of train's images, in [0, 1); 0 carves none.
      folds: of cross-validation, over which train is divided once, whatever the seed; 0 for none.
      fold: which of them is held out, in [0, folds).
      leave_out: a regular expression; the images of train whose id it is found in are held out. Of a fold, only
        images of the classes that it leaves untouched are held out beside them.
    """

    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.0
    folds: int = 0
    fold: int = 0
    leave_out: str = ""


def importance(name: str) -> tuple:
    """Sorts splits by how much they tell of images that were not trained on, nor chosen by."""
    return (_IMPORTANCE.index(name) if name in _IMPORTANCE else len(_IMPORTANCE), name)


def foremost(names: Iterable[str]) -> str:
    """The split that a reader wants to know of first."""
    return min(names, key=importance)


def as_given(records: Sequence[Record]) -> Splits:
    """The splits as they lie in the source."""
    splits = defaultdict(list)
    for record in records:
        splits[record.split].append(record)
    return {name: tuple(members) for name, members in splits.items()}


def require_labels(records: Sequence[Record]) -> None:
    """Raises UserError if an image has no label."""
    unlabelled = [record.id for record in records if record.label is None]
    if unlabelled:
        raise UserError(
            f"{len(unlabelled)} images have no label, such as {unlabelled[0]}: put them into folders named by class, or"
            " a CSV beside them"
        )


def require_trainable(records: Sequence[Record]) -> None:
    """Raises UserError if there is nothing to train on, or one class only, or an image without a label."""
    require_labels(records)
    train = [record for record in records if record.split in ("train", WHOLE)]
    if not train:
        raise UserError(f"the source has no train split, only {', '.join(as_given(records))}")
    _require_both_classes("train", train)


def to_csv(splits: Splits, records: Sequence[Record]) -> str:
    """Which of a source's `records` is in which split: a table of id, label and split, empty for those in none."""
    chosen = {record.id: name for name, members in splits.items() for record in members}
    return csv_table(("id", "label", "split"), ((r.id, r.label, chosen.get(r.id, "")) for r in records))


def from_csv(text: str, records: Sequence[Record]) -> Splits:
    """The splits that `to_csv` wrote of a source that then had these records.

    Raises:
      ValueError: it had others, or with other labels.
    """
    splits = defaultdict(list)
    for (id, label, name), record in zip(_rows(text), records, strict=True):
        if (id, label) != (record.id, str(record.label)):
            raise ValueError(f"{record.id} is not {id}, or has another label")
        splits[name].append(record)
    splits.pop("", None)
    return {name: tuple(members) for name, members in splits.items()}


def labels_in_csv(text: str) -> dict[str, list[int]]:
    """The labels of every split's images, as `to_csv` wrote them."""
    found = defaultdict(list)
    for _, label, name in _rows(text):
        found[name].append(int(label))
    found.pop("", None)
    return dict(found)


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


def composition(labels: Sequence[int | None]) -> dict:
    """What a split is made of: `n`, `normal`, `pneumonia`, and the larger class's share, `majority_accuracy`.

    The share is of the images that have a label, and None where there are none.
    """
    normal, pneumonia = (sum(label == wanted for label in labels) for wanted in (0, 1))
    majority = max(normal, pneumonia) / (normal + pneumonia) if normal + pneumonia else None
    return {"n": len(labels), "normal": normal, "pneumonia": pneumonia, "majority_accuracy": majority}


def subset(records: Sequence[Record], wanted: tuple[int, int], seed: int) -> tuple[Record, ...]:
    """As many training images of either class as are wanted, drawn by `seed`, and all images of other splits.

    Args:
      records: of the source.
      wanted: numbers of normal and of pneumonia images. The paper trains on `PAPERS_SUBSET` of CheXpert.
      seed: of the drawing; a record's chance does not depend on the others.

    Raises:
      UserError: there are fewer.
    """
    train = [record for record in records if record.split in ("train", WHOLE)]
    drawn = set()
    for label, (name, count) in enumerate(zip(CLASSES, wanted, strict=True)):
        ids = [record.id for record in train if record.label == label]
        if len(ids) < count:
            raise UserError(f"a subset of {count:,} {name} images is asked for, and train has {len(ids):,}")
        drawn.update(sorted(ids, key=lambda id: _draw(f"{seed}:subset", id))[:count])
    return tuple(record for record in records if record.split not in ("train", WHOLE) or record.id in drawn)


def for_training(records: Sequence[Record], carving: Carving) -> tuple[Splits, list[str]]:
    """The splits to train with: carved from train where val is missing, or a test split or folds are asked for.

    A val split with fewer than `MIN_PER_CLASS` images of either class becomes `val_given`: evaluated, never
    chosen by. Carving keeps each patient's images together, takes the same share of either class, and hangs
    on the patients' names and the seed alone.

    Args:
      records: of the source, fit to train on.
      carving: what is asked for. What is held out is so before anything else is carved.

    Returns:
      The splits, train and val among them; and what was done, in sentences.

    Raises:
      UserError: train or a carved split would have one class only.
    """
    splits, notes = as_given(records), []
    if WHOLE in splits:
        splits["train"] = splits.get("train", ()) + splits.pop(WHOLE)
    if carving.folds or carving.leave_out:
        splits["train"], splits[HELD_OUT] = _hold_out(splits["train"], carving)
        _require_both_classes(HELD_OUT, splits[HELD_OUT], ": hold out a fold too, or match images of both classes")
        _require_both_classes("train", splits["train"], f" left beside {HELD_OUT}: hold out less")
        notes.append(_said(HELD_OUT, splits[HELD_OUT]))
    if "val" in splits and min(_counts(splits["val"])) < MIN_PER_CLASS:
        splits["val_given"] = splits.pop("val")
        negatives, positives = _counts(splits["val_given"])
        notes.append(
            f"The source's val split ({negatives} normal, {positives} pneumonia) is too small to choose a model"
            " by: it is kept as val_given."
        )
    wanted = {"val": carving.val_fraction if "val" not in splits else 0.0}
    wanted["test"] = carving.test_fraction if "test" not in splits else 0.0
    whole = splits["train"]
    for name, fraction in wanted.items():
        if fraction:
            share = fraction * len(whole) / len(splits["train"])
            splits["train"], splits[name] = _carve(splits["train"], share, f"{carving.seed}:{name}")
            advice = f": too few patients in train to carve {name} from; give more images"
            _require_both_classes(name, splits[name], advice)
            _require_both_classes("train", splits["train"], advice)
            notes.append(_said(name, splits[name]))
    return splits, notes


def _said(name, records) -> str:
    negatives, positives = _counts(records)
    return f"{name} is carved from train: {negatives} normal, {positives} pneumonia, grouped by patient."


def _hold_out(records, carving):
    """(kept, held out): the images that `leave_out` names with their patients' others, and the fold, see `Carving`."""
    named = [r for r in records if carving.leave_out and re.search(carving.leave_out, r.id)]
    if carving.leave_out and not named:
        raise UserError(f"no training image's id matches --config.data.leave_out={carving.leave_out!r}")
    out = {record.patient for record in named}
    if carving.folds:
        rest = [record for record in records if record.patient not in out]
        members, touched = _fold(rest, carving.folds, carving.fold), {record.label for record in named}
        out |= {record.patient for record in rest if record.patient in members and record.label not in touched}
    return _parted(records, out)


def _fold(records, folds, fold) -> set[str]:
    """The patients of one of `folds` parts, which hold about as many images of each stratum, see `_strata`."""
    members = set()
    for stratum in _strata(records):
        total, before = sum(stratum.values()), 0
        for name in sorted(stratum, key=lambda name: _draw("folds", name)):
            if folds * (before + stratum[name] / 2) // total == fold:
                members.add(name)
            before += stratum[name]
    return members


def _strata(records) -> list[dict[str, int]]:
    """Patient -> number of images: of the patients without, and of those with, a positive image."""
    images, positive = Counter(r.patient for r in records), {r.patient for r in records if r.label}
    return [{name: n for name, n in images.items() if (name in positive) == wanted} for wanted in (False, True)]


def _carve(records, share, salt):
    """(kept, taken): whole patients in the order of a salted hash, until `share` of each stratum is taken."""
    taken = set()
    for stratum in _strata(records):
        wanted, count = share * sum(stratum.values()), 0
        for name in sorted(stratum, key=lambda name: _draw(salt, name)):
            # A patient that would overshoot by more than it brings closer stays in train.
            if abs(count + stratum[name] - wanted) < abs(count - wanted):
                taken.add(name)
                count += stratum[name]
    return _parted(records, taken)


def _parted(records, patients):
    """(records of others, records of `patients`), both in order."""
    return (
        tuple(record for record in records if record.patient not in patients),
        tuple(record for record in records if record.patient in patients),
    )


def _draw(salt: str, name: str) -> bytes:
    return hashlib.sha256(f"{salt}:{name}".encode()).digest()


def _counts(records) -> tuple[int, int]:
    positives = sum(record.label for record in records)
    return len(records) - positives, positives


def _require_both_classes(name, records, advice=": training needs both classes"):
    for count, missing in zip(_counts(records), CLASSES, strict=True):
        if not count:
            raise UserError(f"the {name} split has no {missing} image{advice}")
