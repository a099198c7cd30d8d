"""Splits to train with, to choose by and to evaluate: they keep the promises of `splits.for_training`."""

import random
from collections import Counter
from pathlib import Path

import pytest

from pneumojax.data import splits
from pneumojax.data.source import Record
from pneumojax.data.sources import open_source
from pneumojax.runtime.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "kermany_224"


def records(split="train", normal=300, pneumonia=900, per_patient=3, salt=""):
    """`per_patient` consecutive images of a class are one patient."""
    return [
        Record(f"{split}/{name}/{i:05d}{salt}", label, f"{split}{name}{i // per_patient}{salt}", split)
        for name, label, count in (("n", 0, normal), ("p", 1, pneumonia))
        for i in range(count)
    ]


def training(given, seed=0, val=0.1, test=0.0):
    return splits.for_training(given, splits.Carving(seed=seed, val_fraction=val, test_fraction=test))


def carved(*arguments, **options):
    return training(*arguments, **options)[0]


def ids(members):
    return {record.id for record in members}


def counts(members):
    return tuple(Counter(record.label for record in members)[label] for label in (0, 1))


def patients(members):
    return {record.patient for record in members}


def test_as_given_keeps_every_image_in_its_own_split():
    given = records("val", 3, 3) + records("test", 2, 1) + records("all", 1, 0)
    result = splits.as_given(given)
    assert {name: len(members) for name, members in result.items()} == {"val": 6, "test": 3, "all": 1}
    assert all(record.split == name for name, members in result.items() for record in members)


def test_a_missing_val_is_carved_with_a_note():
    given = records()
    result, notes = training(given)
    assert set(result) == {"train", "val"}
    assert sorted(result["train"] + result["val"]) == sorted(given), "each image is in one split, once"
    negatives, positives = counts(result["val"])
    assert notes == [f"val is carved from train: {negatives} normal, {positives} pneumonia, grouped by patient."]


def test_a_note_does_not_speak_of_patients_that_nobody_knows():
    """An unknown patient has the name of an image: its own, or that of a copy."""
    own = [record._replace(patient=record.id) for record in records()]
    own[1] = own[1]._replace(patient=own[0].id)
    [note] = training(own)[1]
    assert note.endswith(" pneumonia; patients are unknown: each image counts as its own.")
    [note] = training(
        [*records(), *(r._replace(id=f"x{r.id}", patient=f"x{r.id}") for r in records(normal=2, pneumonia=1))]
    )[1]
    assert note.endswith(", grouped by patient, where 3 images without a known patient count as their own.")


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("per_patient", [1, 3, 10])
def test_carving_takes_its_share_of_each_class(fraction, per_patient):
    result = carved(records(per_patient=per_patient), val=fraction)
    for count, whole in zip(counts(result["val"]), (300, 900), strict=True):
        assert abs(count - fraction * whole) <= per_patient / 2


def test_patients_stay_whole():
    result = carved(records(), val=0.2, test=0.2)
    assert set(result) == {"train", "val", "test"}
    names = list(result)
    for i, first in enumerate(names):
        for second in names[:i]:
            assert not patients(result[first]) & patients(result[second])


def test_a_patient_of_both_classes_stays_whole():
    mixed = [Record(f"{i:04d}", i % 2, f"patient{i // 2}", "train") for i in range(400)]
    result = carved(mixed)
    assert counts(result["val"]) == (20, 20)
    assert not patients(result["train"]) & patients(result["val"])


def test_val_and_test_are_shares_of_the_whole_and_disjoint():
    result = carved(records(per_patient=1), val=0.1, test=0.2)
    assert counts(result["val"]) == (30, 90)
    assert counts(result["test"]) == (60, 180)
    assert counts(result["train"]) == (210, 630)


def test_asking_for_a_test_split_leaves_val_as_it_was():
    assert carved(records())["val"] == carved(records(), test=0.2)["val"]


def test_order_of_the_records_does_not_matter():
    shuffled = records()
    random.Random(0).shuffle(shuffled)
    before, after = carved(records(), test=0.1), carved(shuffled, test=0.1)
    assert {name: ids(members) for name, members in before.items()} == {
        name: ids(members) for name, members in after.items()
    }


def test_new_images_hardly_move_the_old_ones():
    """If val images moved to train when the data grows, old and new val scores could not be compared."""
    old = records()
    before = ids(carved(old)["val"])
    after = ids(carved(old + records(normal=30, pneumonia=90, salt="new"))["val"])
    moved = (before ^ after) & ids(old)
    assert len(moved) <= 0.15 * len(before)
    # A carving drawn from scratch would keep a tenth.
    assert len(before & after) >= 0.85 * len(before)


def test_other_seeds_carve_other_images():
    assert carved(records(), seed=3) == carved(records(), seed=3)
    first, second = (ids(carved(records(), seed=seed)["val"]) for seed in (0, 1))
    assert len(first & second) < 0.4 * len(first)


def test_val_and_test_are_drawn_independently():
    """With one salt for both, test would hold the images that a larger val takes."""
    val = ids(carved(records(), val=0.3)["val"])
    test = ids(carved(records() + records("val", 50, 50), test=0.3)["test"])
    assert len(val & test) < 0.6 * len(val)


@pytest.mark.parametrize(("normal", "pneumonia"), [(49, 200), (200, 49), (8, 8), (0, 60)])
def test_a_small_val_is_kept_apart_and_another_is_carved(normal, pneumonia):
    small = records("val", normal, pneumonia)
    result, notes = training(records() + small)
    assert set(result) == {"train", "val", "val_given"}
    assert ids(result["val_given"]) == ids(small)
    assert not ids(result["val"]) & ids(small)
    assert f"({normal} normal, {pneumonia} pneumonia) is too small" in notes[0]
    assert "carved" in notes[1]


def test_a_val_of_fifty_each_is_kept():
    result, notes = training(records() + records("val", 50, 50))
    assert set(result) == {"train", "val"}
    assert counts(result["val"]) == (50, 50)
    assert counts(result["train"]) == (300, 900)
    assert not notes


def test_a_given_test_split_is_kept_however_small():
    given = records("test", 1, 0)
    result = carved(records() + given, test=0.3)
    assert ids(result["test"]) == ids(given)


def test_a_source_without_splits_is_carved_from():
    result = carved(records("all"), test=0.1)
    assert set(result) == {"train", "val", "test"}
    assert sum(map(len, result.values())) == 1200


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (records("test", 60, 60), "no image of a train split to train on, only test"),
        (records(normal=0), "train split has no normal"),
        (records(pneumonia=0), "train split has no pneumonia"),
        (records("all", pneumonia=0), "train split has no pneumonia"),
        ([*records(), Record("odd one", None, "x", "train")], "^1 image without a label, such as odd one"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(given, says):
    with pytest.raises(UserError, match=says) as caught:
        splits.require_trainable(given)
    assert "\n" not in str(caught.value)
    splits.require_trainable(records())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (records(normal=30, per_patient=30), "val split has no normal image: train has too few patients"),
        (records(normal=3, pneumonia=3), "val split has no normal image: train has too few patients"),
        ([Record(f"{i}", i % 2, "the only one", "train") for i in range(100)], "too few patients"),
    ],
)
def test_what_cannot_be_carved_is_refused(given, says):
    with pytest.raises(UserError, match=says):
        training(given)


def test_a_subset_has_the_chosen_numbers_and_leaves_other_splits_alone():
    given = records() + records("val", 60, 60)
    drawn = splits.subset(given, (10, 70), seed=0)
    assert counts([record for record in drawn if record.split == "train"]) == (10, 70)
    assert [record for record in drawn if record.split == "val"] == records("val", 60, 60)
    assert drawn == splits.subset(given, (10, 70), seed=0)
    assert ids(drawn) < ids(splits.subset(given, (11, 71), seed=0)), "a larger one holds the smaller"
    assert len(ids(drawn) & ids(splits.subset(given, (10, 70), seed=1))) < 120 + 30
    with pytest.raises(UserError, match="^train has 300 normal images: set --config.data.subset to fewer than 301$"):
        splits.subset(given, (301, 1), seed=0)


def test_splits_are_read_back_from_their_table():
    given = [*records(normal=3, pneumonia=4), Record('comma, "quote"\nline', 1, "x", "train")]
    before = {"train": tuple(given[:4]), "val": tuple(given[5:])}
    table = splits.to_csv(before, given)
    assert table.startswith("id,label,split\n")
    assert f"\n{given[4].id},1,\n" in table, "images in no split are listed too"
    assert splits.from_csv(table, given) == before
    for changed in (given[1:], [given[0]._replace(label=1), *given[1:]], [*given, Record("new", 0, "y", "train")]):
        with pytest.raises(ValueError):
            splits.from_csv(table, changed)


def test_a_share_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(UserError, match="train split has no"):
        training(records(), val=0.999)


def test_a_test_split_that_would_be_empty_is_refused():
    with pytest.raises(UserError, match="test split has no normal"):
        training(records(normal=30, per_patient=10), val=0.4, test=0.01)


def test_the_real_set():
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    result = carved(open_source(str(REAL)).records)
    assert counts(result["val_given"]) == (8, 8)
    assert not patients(result["train"]) & patients(result["val"])
    for count, whole in zip(counts(result["val"]), (1341, 3875), strict=True):
        assert abs(count - 0.1 * whole) <= 3
    assert len(result["train"]) + len(result["val"]) == 5216


def divided(given, **options):
    return splits.for_training(given, splits.Carving(**options))[0]


def held_out(given, **options):
    return divided(given, **options)[splits.HELD_OUT]


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_folds_are_disjoint_and_together_are_train(folds):
    """Each image is held out once, with all others of its patient."""
    given = records()
    parts = [held_out(given, folds=folds, fold=fold) for fold in range(folds)]
    assert sorted(record for part in parts for record in part) == sorted(given)
    assert sum(len(patients(part)) for part in parts) == len(patients(given)), "each patient is in one fold"


@pytest.mark.parametrize("folds", [2, 7, 10])
@pytest.mark.parametrize("per_patient", [1, 3, 10])
def test_a_fold_has_its_share_of_either_class(folds, per_patient):
    """A patient belongs to the fold of its middle image, so no boundary is off by more than half a patient."""
    so_far = [0, 0]
    for fold in range(folds):
        part = counts(held_out(records(per_patient=per_patient), folds=folds, fold=fold))
        for label, whole in enumerate((300, 900)):
            so_far[label] += part[label]
            assert abs(part[label] - whole / folds) <= per_patient
            assert abs(so_far[label] - whole * (fold + 1) / folds) <= per_patient / 2


def test_folds_have_similar_sizes_although_patients_do_not():
    """Patients have 1 to 20 images: with equal numbers of patients, some folds would have 1.5 times as many images."""
    given = [
        Record(f"{label}/{patient}/{i}", label, f"{label}/{patient}", "train")
        for label in (0, 1)
        for patient in range(100)
        for i in range(1 + patient % 20)
    ]
    for fold in range(5):
        for count in counts(held_out(given, folds=5, fold=fold)):
            assert abs(count - 1050 / 5) <= 20


def test_a_patient_of_both_classes_is_in_one_fold():
    mixed = [Record(f"{i:04d}", i % 2, f"patient{i // 2}", "train") for i in range(400)]
    parts = [held_out(mixed, folds=4, fold=fold) for fold in range(4)]
    assert [counts(part) for part in parts] == [(50, 50)] * 4
    assert sorted(record for part in parts for record in part) == sorted(mixed)


def test_folds_depend_on_neither_seed_nor_order():
    """Runs of one cross-validation may have different seeds and must still share its folds."""
    shuffled = records()
    random.Random(0).shuffle(shuffled)
    for fold in range(3):
        first = divided(records(), folds=3, fold=fold, seed=0)
        other = divided(shuffled, folds=3, fold=fold, seed=5)
        assert ids(first[splits.HELD_OUT]) == ids(other[splits.HELD_OUT])
        assert ids(first["val"]) != ids(other["val"]), "the seed only changes val"
        same = divided(shuffled, folds=3, fold=fold, seed=0)
        assert {name: ids(members) for name, members in first.items()} == {
            name: ids(members) for name, members in same.items()
        }


def test_folds_do_not_follow_the_order_of_names():
    """Names often start with a hospital or a year: a fold of neighbours would be another population."""
    part = held_out(records(per_patient=1), folds=5, fold=0)
    places = [int(record.id[-5:]) / (900 if record.label else 300) for record in part]
    assert min(places) < 0.1 and max(places) > 0.9
    assert abs(sum(places) / len(places) - 0.5) < 0.1


@pytest.mark.parametrize("fold", range(4))
def test_val_and_test_are_carved_from_what_a_fold_leaves(fold):
    """If val shared images with the fold, the model would be chosen by the images that it is then scored on."""
    given = records()
    result, notes = splits.for_training(given, splits.Carving(val_fraction=0.1, test_fraction=0.2, folds=4, fold=fold))
    assert set(result) == {"train", "val", "test", splits.HELD_OUT}
    assert sorted(record for members in result.values() for record in members) == sorted(given)
    assert sum(len(patients(members)) for members in result.values()) == len(patients(given))
    left = [whole - held for whole, held in zip((300, 900), counts(result[splits.HELD_OUT]), strict=True)]
    for name, share in (("val", 0.1), ("test", 0.2)):
        for count, whole in zip(counts(result[name]), left, strict=True):
            assert abs(count - share * whole) <= 3
    negatives, positives = counts(result[splits.HELD_OUT])
    assert notes[0] == f"held_out is carved from train: {negatives} normal, {positives} pneumonia, grouped by patient."


def test_folds_leave_given_splits_alone():
    given = records("val", 60, 60) + records("test", 5, 5)
    result = divided(records() + given, folds=3, fold=1)
    assert ids(result["val"]) | ids(result["test"]) == ids(given)
    assert ids(result["train"]) | ids(result[splits.HELD_OUT]) == ids(records())


def test_a_source_without_splits_has_folds_too():
    parts = [held_out(records("all"), folds=3, fold=fold) for fold in range(3)]
    assert sorted(record for part in parts for record in part) == sorted(records("all"))


def test_nothing_is_held_out_by_default():
    assert splits.HELD_OUT not in divided(records())


def test_leave_out_takes_all_images_of_matching_patients():
    """Patients have three images: with 12 and 13 of a class, 14 is held out. The pattern may match anywhere."""
    result = divided(records(), leave_out=r"0001[23]$")
    expected = {f"train/{name}/{i:05d}" for name in "np" for i in (12, 13, 14)}
    assert ids(result[splits.HELD_OUT]) == expected
    for name in ("train", "val"):
        assert not ids(result[name]) & expected
        assert not patients(result[name]) & patients(result[splits.HELD_OUT])
    assert sum(map(len, result.values())) == 1200
    assert counts(result["val"]) == (30, 90)


def test_leave_out_searches_ids_of_train_alone():
    """Images of test are never trained on, so they stay where they are."""
    given = records("test", 5, 5)
    result = divided(records() + given, leave_out=r"/0000[0-4]$")
    assert ids(result["test"]) == ids(given)
    # Patients have three images: with 0 to 4, 5 is held out.
    assert counts(result[splits.HELD_OUT]) == (6, 6)


@pytest.mark.parametrize(("pattern", "unmatched"), [("/p/000", 0), ("/n/000", 1)])
def test_a_fold_beside_a_pattern_holds_out_only_the_class_that_the_pattern_does_not_match(pattern, unmatched):
    """A kind of pneumonia that is left out is scored against normals of a fold; other pneumonia is trained on."""
    named = {record.id for record in records() if pattern in record.id}
    whole = {record.id for record in records() if record.label == unmatched}
    parts = []
    for fold in range(4):
        result = divided(records(), folds=4, fold=fold, leave_out=pattern)
        out = result[splits.HELD_OUT]
        matched = {record for record in out if record.label != unmatched}
        assert named <= ids(matched)
        assert patients(matched) == {record.patient for record in records() if record.id in named}
        assert not patients(out) & (patients(result["train"]) | patients(result["val"]))
        assert sorted(record for members in result.values() for record in members) == sorted(records())
        parts.append(ids(out) - ids(matched))
        # The other class is divided as it is without the pattern, so that both runs can be compared.
        plain = held_out(records(), folds=4, fold=fold)
        assert parts[-1] == {record.id for record in plain if record.label == unmatched}
    assert set.union(*parts) == whole and sum(map(len, parts)) == len(whole)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"leave_out": "/p/"}, "held_out split has no normal"),
        ({"leave_out": "/n/000"}, "held_out split has no pneumonia"),
        ({"leave_out": "covid"}, "no training image.s id matches --config.data.leave_out=.covid."),
        ({"leave_out": "^train/"}, "train split has no normal image left beside held_out"),
        ({"leave_out": "/p/", "folds": 3}, "train split has no pneumonia image left beside held_out"),
        ({"leave_out": "/n/|/p/000"}, "train split has no normal image left beside held_out"),
    ],
)
def test_what_cannot_be_held_out_is_refused(options, says):
    """The model would be trained or scored on one class: the message names the split before any image is read."""
    with pytest.raises(UserError, match=says) as caught:
        divided(records(), **options)
    assert "\n" not in str(caught.value)


def test_a_fold_without_a_class_is_refused():
    """Three normal patients cannot fill five folds, and a fold without any could not be scored."""
    given = records(normal=30, per_patient=10)
    refused = 0
    for fold in range(5):
        try:
            assert min(counts(held_out(given, folds=5, fold=fold, val_fraction=0.4))) > 0
        except UserError as error:
            refused += 1
            assert "held_out split has no normal" in str(error) and "\n" not in str(error)
    assert refused == 2


def test_held_out_splits_are_read_back_from_their_table():
    result = divided(records(), folds=3, fold=1, leave_out="/p/000")
    assert splits.from_csv(splits.to_csv(result, records()), records()) == result


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (("train", "val", "held_out", "test"), "test"),
        (("train", "val", "held_out"), "held_out"),
        (("train", "val_given", "val"), "val"),
        (("train", "val_given"), "val_given"),
        (("train", "all"), "all"),
        (("train",), "train"),
        # A run may have evaluations of other sources beside its own, which count more.
        (("train", "elsewhere-test", "val"), "val"),
        (("elsewhere-test", "abroad-test"), "abroad-test"),
    ],
)
def test_the_foremost_split_is_the_least_known_to_the_model(names, first):
    assert splits.foremost(names) == first
    assert splits.foremost(dict.fromkeys(reversed(names))) == first, "the order of reading does not matter"


def test_a_split_of_another_name_is_refused():
    """Its name becomes that of files, which must lie in the workdir."""
    records = [Record("a", 0, "a", "train")]
    assert splits.from_csv("id,label,split\na,0,train\n", records) == {"train": (records[0],)}
    with pytest.raises(ValueError, match="no split is named"):
        splits.from_csv("id,label,split\na,0,../../precious\n", records)
