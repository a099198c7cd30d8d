"""Which images are trained on, chosen by, and only looked at."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from pneumojax.data.records import WHOLE, Record
from pneumojax.errors import UserError

MIN_PER_CLASS = 50  # a val split with fewer images of either class is too small to choose a model by

Splits = dict[str, tuple[Record, ...]]


def as_given(records: Sequence[Record]) -> Splits:
    """The splits as they lie in the source."""
    splits = defaultdict(list)
    for record in records:
        splits[record.split].append(record)
    return {name: tuple(members) for name, members in splits.items()}


def composition(splits: Splits) -> dict[str, dict]:
    """What tells these splits from others: split -> numbers of images, and a digest of ids and labels."""
    return {
        name: {
            "normal": _counts(records)[0],
            "pneumonia": _counts(records)[1],
            "sha256": hashlib.sha256("".join(f"{r.id}\0{r.label}\n" for r in records).encode()).hexdigest(),
        }
        for name, records in sorted(splits.items())
    }


def for_training(
    records: Sequence[Record], *, seed: int, val_fraction: float, test_fraction: float
) -> tuple[Splits, list[str]]:
    """The splits to train with: carved from train where val is missing, or a test split is asked for.

    A val split with fewer than `MIN_PER_CLASS` images of either class becomes `val_given`: evaluated, never
    chosen by. Carving keeps each patient's images together, takes the same share of either class, and hangs
    on the patients' names and the seed alone.

    Args:
      records: of the source.
      seed: of the carving.
      val_fraction: share of train's images, in (0, 1).
      test_fraction: share of train's images, in [0, 1); 0 carves none.

    Returns:
      The splits, train and val among them; and what was done, in sentences.

    Raises:
      UserError: there is nothing to train on, or train or a carved split would have one class only.
    """
    splits, notes = as_given(records), []
    if WHOLE in splits:
        splits["train"] = splits.pop(WHOLE)
    if "train" not in splits:
        raise UserError(f"the source has no train split, only {', '.join(splits)}")
    _require_both_classes("train", splits["train"])
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
        for name in sorted(stratum, key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).digest()):
            # A patient that would overshoot by more than it brings closer stays in train.
            if abs(count + len(patients[name]) - wanted) < abs(count - wanted):
                taken.add(name)
                count += len(patients[name])
    return (
        tuple(record for record in records if record.patient not in taken),
        tuple(record for record in records if record.patient in taken),
    )


def _counts(records) -> tuple[int, int]:
    positives = sum(record.label for record in records)
    return len(records) - positives, positives


def _require_both_classes(name, records, advice=": training needs both classes"):
    for count, missing in zip(_counts(records), ("normal", "pneumonia"), strict=True):
        if not count:
            raise UserError(f"the {name} split has no {missing} image{advice}")
