"""The splits of a source: which images to train on, to choose a model by, and only to evaluate."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from pneumojax.data.patients import UNKNOWN, unknown_among
from pneumojax.data.source import CLASSES, WHOLE, Record
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.tables import csv_table, read_csv_table
from pneumojax.runtime.wording import counted

PAPERS_SUBSET = (1082, 6517)  # Huynh et al.: normal and pneumonia images to train on
MIN_PER_CLASS = 50  # a val split with fewer images of either class is too small to choose a model by

HELD_OUT = "held_out"  # the split that cross-validation, or a pattern, keeps from training
UNSEEN = "unseen"  # the split of a site that is left out; it comes before the test split of other sites
_IMPORTANCE = (UNSEEN, "test", HELD_OUT, "val", "val_given", WHOLE, "train")

Splits = dict[str, tuple[Record, ...]]


class Carving(NamedTuple):
    """How to divide train further.

    Attributes:
      seed: of the drawing of val and test, and of a subset.
      val_fraction: share of train's images, in (0, 1), if no val split is given.
      test_fraction: share of train's images, in [0, 1); 0 carves none.
      folds: of cross-validation; 0 for none. The folds do not depend on the seed.
      fold: the fold to hold out, in [0, folds).
      leave_out: a regular expression; images of train are held out if it matches anywhere in their ids. If a fold is
        held out as well, only its images of the classes without such a match are.
      leave_out_site: the name of a site, all images of which become the split `UNSEEN`; empty for none.
    """

    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.0
    folds: int = 0
    fold: int = 0
    leave_out: str = ""
    leave_out_site: str = ""


def importance(name: str) -> tuple[int, str]:
    """Return a key that sorts splits: those that neither training nor choosing has seen come first."""
    return (_IMPORTANCE.index(name) if name in _IMPORTANCE else len(_IMPORTANCE), name)


def foremost(names: Iterable[str]) -> str:
    """Return the split whose scores a reader should see first."""
    return min(names, key=importance)


def as_given(records: Sequence[Record]) -> Splits:
    """Return the splits of the source itself."""
    splits = defaultdict(list)
    for record in records:
        splits[record.split].append(record)
    return {name: tuple(members) for name, members in splits.items()}


def require_labels(records: Sequence[Record]) -> None:
    """Raise UserError if an image has no label."""
    unlabelled = [record.id for record in records if record.label is None]
    if unlabelled:
        raise UserError(
            f"{counted(len(unlabelled), 'image')} without a label, such as {unlabelled[0]}: put images into folders"
            " named by class, or add a CSV of labels"
        )


def require_trainable(records: Sequence[Record]) -> None:
    """Raise UserError if there is nothing to train on, only one class, or an image without a label."""
    require_labels(records)
    train = [record for record in records if record.split in ("train", WHOLE)]
    if not train:
        found = ", ".join(as_given(records)) or "nothing"
        raise UserError(f"there is no image of a train split to train on, only {found}: add a train folder")
    _require_both_classes("train", train)


def to_csv(splits: Splits, records: Sequence[Record]) -> str:
    """Format a table of id, label and split of all `records` of a source; the split is empty for those in none.

    Where an image in a split has another weight than 1, there is a column of weights too.
    """
    chosen = {record.id: name for name, members in splits.items() for record in members}
    weights = {record.id: record.weight for members in splits.values() for record in members}
    header = ("id", "label", "split", "weight")[: 4 if set(weights.values()) - {1.0} else 3]
    rows = ((r.id, r.label, chosen.get(r.id, ""), weights.get(r.id, "")) for r in records)
    return csv_table(header, (row[: len(header)] for row in rows))


def from_csv(text: str, records: Sequence[Record]) -> Splits:
    """Read the splits that `to_csv` wrote for a source with these records.

    Raises:
      ValueError: the table has other ids or labels.
    """
    splits = defaultdict(list)
    for (id, label, name, *_), record in zip(read_csv_table(text)[1:], records, strict=True):
        if (id, label) != (record.id, str(record.label)):
            raise ValueError(f"{record.id} is not {id}, or has another label")
        if name not in ("", *_IMPORTANCE):  # it becomes the name of files
            raise ValueError(f"no split is named {name!r}")
        splits[name].append(record)
    splits.pop("", None)
    return {name: tuple(members) for name, members in splits.items()}


def labels_in_csv(text: str) -> dict[str, list[int]]:
    """Read the labels of every split's images from what `to_csv` wrote."""
    labels = defaultdict(list)
    for _, label, name, *_ in read_csv_table(text)[1:]:
        labels[name].append(int(label))
    labels.pop("", None)
    return dict(labels)


def composition(labels: Sequence[int | None]) -> dict[str, Any]:
    """Count a split's images: `n`, `normal`, `pneumonia`, and the larger class's share, `majority_accuracy`.

    The share is of the images with a label; None if there are none.
    """
    normal, pneumonia = (sum(label == number for label in labels) for number in (0, 1))
    majority = max(normal, pneumonia) / (normal + pneumonia) if normal + pneumonia else None
    return {"n": len(labels), "normal": normal, "pneumonia": pneumonia, "majority_accuracy": majority}


def subset(records: Sequence[Record], counts: tuple[int, int], seed: int) -> tuple[Record, ...]:
    """Draw training images, `counts` of (normal, pneumonia), by `seed`; keep all images of other splits.

    Whether a record is drawn before another does not depend on further records. The paper trains on `PAPERS_SUBSET` of
    CheXpert.

    Raises:
      UserError: a class has fewer images.
    """
    train = [record for record in records if record.split in ("train", WHOLE)]
    drawn = set()
    for label, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
        ids = [record.id for record in train if record.label == label]
        if len(ids) < count:
            raise UserError(f"train has {len(ids):,} {name} images: set --config.data.subset to fewer than {count:,}")
        drawn.update(sorted(ids, key=lambda id: _draw(f"{seed}:subset", id))[:count])
    return tuple(record for record in records if record.split not in ("train", WHOLE) or record.id in drawn)


def for_training(records: Sequence[Record], carving: Carving) -> tuple[Splits, list[str]]:
    """Return the splits to train with, and what was done, in sentences.

    A missing val is carved from train, and on request a test split or folds; images are held out before that.
    A val split with fewer than `MIN_PER_CLASS` images of either class becomes `val_given`: it is evaluated, but no
    model is chosen by it. Carving keeps each patient's images together, takes the same share of either class at each
    site, and depends only on the patients' names and the seed. Images of weight 0 are in no split, and those of less
    than 1 in train alone: where their patient is in another split, they are left out. `require_trainable` must accept
    the records.

    Raises:
      UserError: train or a carved split would have one class only, or there is no site of the name to leave out.
    """
    records, site = [record for record in records if record.weight], carving.leave_out_site
    others = _of_other_sites(records, site) if site else records
    splits, notes, grouping = _judging_by_trust(as_given(others)), [], _grouping(records)
    if WHOLE in splits:
        splits["train"] = splits.get("train", ()) + splits.pop(WHOLE)
    if carving.folds or carving.leave_out:
        splits["train"], splits[HELD_OUT] = _hold_out(splits["train"], carving)
        _require_both_classes(HELD_OUT, splits[HELD_OUT], ": hold out a fold too, or match images of both classes")
        _require_both_classes("train", splits["train"], f" left beside {HELD_OUT}: hold out less")
        notes.append(_carving_note(HELD_OUT, splits[HELD_OUT], grouping))
    if site:
        splits[UNSEEN] = tuple(record for record in _trusted(records) if record.site == site)
        _require_both_classes(UNSEEN, splits[UNSEEN], f": the site {site} cannot be left out")
        normal, pneumonia = _counts(splits[UNSEEN])
        notes.append(f"{UNSEEN} is the site {site}: {normal} normal, {pneumonia} pneumonia.")
    if "val" in splits and min(_counts(splits["val"])) < MIN_PER_CLASS:
        splits["val_given"] = splits.pop("val")
        negatives, positives = _counts(splits["val_given"])
        notes.append(
            f"The source's val split ({negatives} normal, {positives} pneumonia) is too small to choose a model"
            " by: it is kept as val_given."
        )
    whole = splits["train"]
    for name, fraction in (("val", carving.val_fraction), ("test", carving.test_fraction)):
        if fraction and name not in splits:
            share = fraction * len(_trusted(whole)) / max(len(_trusted(splits["train"])), 1)
            splits["train"], splits[name] = _carve(splits["train"], share, f"{carving.seed}:{name}")
            advice = f": train has too few patients to carve {name} from: add images"
            _require_both_classes(name, splits[name], advice)
            _require_both_classes("train", splits["train"], advice)
            notes.append(_carving_note(name, splits[name], grouping))
    if left := sum(r.weight < 1 for r in others) - sum(r.weight < 1 for own in splits.values() for r in own):
        images = counted(left, "image")
        notes.append(f"Only trusted labels judge: {images} of less than full weight left out beside train.")
    if missing := sorted({record.site for record in splits["train"]} - {record.site for record in splits["val"]}):
        notes.append(f"val has no image of {' and '.join(missing)}: the model is not chosen by that site.")
    return splits, notes


def _of_other_sites(records: Sequence[Record], site: str) -> list[Record]:
    """Return the records that may train a model which has never seen a site, nor a picture that is there too."""
    out = {record.patient for record in records if record.site == site}
    if not out:
        raise UserError(f"no site is named {site}: set --config.data.leave_out_site to a name in --data")
    others = [record for record in records if record.patient not in out]
    require_trainable(others)
    return others


def _carving_note(name: str, records: Sequence[Record], grouping: str) -> str:
    negatives, positives = _counts(records)
    return f"{name} is carved from train: {negatives} normal, {positives} pneumonia{grouping}."


def _grouping(records: Sequence[Record]) -> str:
    """Return how carving keeps images together, to end a sentence."""
    unknown = unknown_among(records)
    if unknown == len(records):
        return f"; {UNKNOWN}"
    others = f", where {counted(unknown, 'image')} without a known patient count as their own" if unknown else ""
    return f", grouped by patient{others}"


def _hold_out(records: Sequence[Record], carving: Carving) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return (kept, held out): patients with an image that `leave_out` matches are held out, and the fold."""
    named = [r for r in records if carving.leave_out and re.search(carving.leave_out, r.id)]
    if carving.leave_out and not named:
        raise UserError(f"no training image's id matches --config.data.leave_out={carving.leave_out!r}")
    out = {record.patient for record in named}
    if carving.folds:
        rest = [record for record in records if record.patient not in out]
        members, touched = _fold(rest, carving.folds, carving.fold), {record.label for record in named}
        out |= {record.patient for record in rest if record.patient in members and record.label not in touched}
    return _divided(records, out)


def _trusted(records: Sequence[Record]) -> tuple[Record, ...]:
    return tuple(record for record in records if record.weight == 1)


def _judging_by_trust(splits: Splits) -> Splits:
    """Return the splits with images of less than full weight in those to train on alone."""
    judging = {name: members if name in ("train", WHOLE) else _trusted(members) for name, members in splits.items()}
    return {name: members for name, members in judging.items() if members}


def _fold(records: Sequence[Record], folds: int, fold: int) -> set[str]:
    """Return the patients of one of `folds` parts with about equal numbers of trusted images of each stratum."""
    members = set()
    for stratum in _strata(records):
        total, before = sum(stratum.values()), 0
        for name in sorted(stratum, key=lambda name: _draw("folds", name)):
            if folds * (before + stratum[name] / 2) // total == fold:
                members.add(name)
            before += stratum[name]
    return members


def _strata(records: Sequence[Record]) -> list[dict[str, int]]:
    """Return patient -> number of trusted images, for each site's patients without and with a positive one."""
    records = _trusted(records)
    images, positive = Counter(r.patient for r in records), {r.patient for r in records if r.label}
    sites = {r.patient: r.site for r in reversed(records)}  # copies of a picture can tie patients of several sites
    return [
        {name: n for name, n in images.items() if (sites[name], name in positive) == (site, sick)}
        for site in sorted(set(sites.values()))
        for sick in (False, True)
    ]


def _carve(records: Sequence[Record], share: float, salt: str) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return (kept, taken): takes patients in the order of a salted hash, up to `share` of each stratum's images.

    The images are the trusted ones.
    """
    taken = set()
    for stratum in _strata(records):
        target, count = share * sum(stratum.values()), 0
        for name in sorted(stratum, key=lambda name: _draw(salt, name)):
            # A patient that would overshoot by more than it brings closer stays in train.
            if abs(count + stratum[name] - target) < abs(count - target):
                taken.add(name)
                count += stratum[name]
    return _divided(records, taken)


def _divided(records: Sequence[Record], patients: Collection[str]) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return (records of other patients, trusted records of `patients`), both in order."""
    return (
        tuple(record for record in records if record.patient not in patients),
        tuple(record for record in _trusted(records) if record.patient in patients),
    )


def _draw(salt: str, name: str) -> bytes:
    return hashlib.sha256(f"{salt}:{name}".encode()).digest()


def _counts(records: Sequence[Record]) -> tuple[int, int]:
    positives = sum(record.label == 1 for record in records)
    return len(records) - positives, positives


def _require_both_classes(
    name: str, records: Sequence[Record], advice: str = ": training needs both classes, add images"
) -> None:
    for count, missing in zip(_counts(records), CLASSES, strict=True):
        if not count:
            raise UserError(f"the {name} split has no {missing} image{advice}")
