"""Which images are trained on, chosen by, and only looked at."""

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence

from pneumojax.data.records import WHOLE, Record
from pneumojax.errors import UserError
from pneumojax.files import csv_table

PAPERS_SUBSET = (1082, 6517)  # Huynh et al.: normal and pneumonia images to train on
MIN_PER_CLASS = 50  # a val split with fewer images of either class is too small to choose a model by

Splits = dict[str, tuple[Record, ...]]


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
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    splits = defaultdict(list)
    for (id, label, name), record in zip(rows, records, strict=True):
        if (id, label) != (record.id, str(record.label)):
            raise ValueError(f"{record.id} is not {id}, or has another label")
        splits[name].append(record)
    splits.pop("", None)
    return {name: tuple(members) for name, members in splits.items()}


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
    for label, (name, count) in enumerate(zip(("normal", "pneumonia"), wanted, strict=True)):
        ids = [record.id for record in train if record.label == label]
        if len(ids) < count:
            raise UserError(f"a subset of {count:,} {name} images is asked for, and train has {len(ids):,}")
        drawn.update(sorted(ids, key=lambda id: _draw(f"{seed}:subset", id))[:count])
    return tuple(record for record in records if record.split not in ("train", WHOLE) or record.id in drawn)


def for_training(
    records: Sequence[Record], *, seed: int, val_fraction: float, test_fraction: float
) -> tuple[Splits, list[str]]:
    """The splits to train with: carved from train where val is missing, or a test split is asked for.

    A val split with fewer than `MIN_PER_CLASS` images of either class becomes `val_given`: evaluated, never
    chosen by. Carving keeps each patient's images together, takes the same share of either class, and hangs
    on the patients' names and the seed alone.

    Args:
      records: of the source, fit to train on.
      seed: of the carving.
      val_fraction: share of train's images, in (0, 1).
      test_fraction: share of train's images, in [0, 1); 0 carves none.

    Returns:
      The splits, train and val among them; and what was done, in sentences.

    Raises:
      UserError: train or a carved split would have one class only.
    """
    splits, notes = as_given(records), []
    if WHOLE in splits:
        splits["train"] = splits.get("train", ()) + splits.pop(WHOLE)
    if "val" in splits and min(_counts(splits["val"])) < MIN_PER_CLASS:
        splits["val_given"] = splits.pop("val")
        negatives, positives = _counts(splits["val_given"])
        notes.append(
            f"The source's val split ({negatives} normal, {positives} pneumonia) is too small to choose a model"
            " by: it is kept as val_given."
        )
    wanted = {"val": val_fraction if "val" not in splits else 0.0}
    wanted["test"] = test_fraction if "test" not in splits else 0.0
    whole = splits["train"]
    for name, fraction in wanted.items():
        if fraction:
            share = fraction * len(whole) / len(splits["train"])
            splits["train"], splits[name] = _carve(splits["train"], share, f"{seed}:{name}")
            advice = f": too few patients in train to carve {name} from; give more images"
            _require_both_classes(name, splits[name], advice)
            _require_both_classes("train", splits["train"], advice)
            negatives, positives = _counts(splits[name])
            notes.append(f"{name} is carved from train: {negatives} normal, {positives} pneumonia, grouped by patient.")
    return splits, notes


def _carve(records, share, salt):
    """(kept, taken): whole patients in the order of a salted hash, until `share` of each stratum is taken.

    A patient's stratum is whether any image of theirs is positive.
    """
    patients = defaultdict(list)
    for record in records:
        patients[record.patient].append(record)
    taken = set()
    for positive in (False, True):
        stratum = [name for name, own in patients.items() if any(record.label for record in own) == positive]
        wanted = share * sum(len(patients[name]) for name in stratum)
        count = 0
        for name in sorted(stratum, key=lambda name: _draw(salt, name)):
            # A patient that would overshoot by more than it brings closer stays in train.
            if abs(count + len(patients[name]) - wanted) < abs(count - wanted):
                taken.add(name)
                count += len(patients[name])
    return (
        tuple(record for record in records if record.patient not in taken),
        tuple(record for record in records if record.patient in taken),
    )


def _draw(salt: str, name: str) -> bytes:
    return hashlib.sha256(f"{salt}:{name}".encode()).digest()


def _counts(records) -> tuple[int, int]:
    positives = sum(record.label for record in records)
    return len(records) - positives, positives


def _require_both_classes(name, records, advice=": training needs both classes"):
    for count, missing in zip(_counts(records), ("normal", "pneumonia"), strict=True):
        if not count:
            raise UserError(f"the {name} split has no {missing} image{advice}")
