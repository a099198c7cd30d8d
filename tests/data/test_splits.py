"""Who is trained on, chosen by and looked at: what the contract of the splits promises."""

import random
from collections import Counter
from pathlib import Path

import pytest

from pneumojax.data import splits
from pneumojax.data.records import Record
from pneumojax.data.sources import open_source
from pneumojax.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "kermany_224"


def records(split="train", normal=300, pneumonia=900, per_patient=3, salt=""):
    """`per_patient` consecutive images of a class are one patient."""
    return [
        Record(f"{split}/{name}/{i:05d}{salt}", label, f"{split}{name}{i // per_patient}{salt}", split)
        for name, label, count in (("n", 0, normal), ("p", 1, pneumonia))
        for i in range(count)
    ]


def training(given, seed=0, val=0.1, test=0.0):
    return splits.for_training(given, seed=seed, val_fraction=val, test_fraction=test)


def carved(*arguments, **options):
    return training(*arguments, **options)[0]


def ids(members):
    return {record.id for record in members}


def counts(members):
    return tuple(Counter(record.label for record in members)[label] for label in (0, 1))


def patients(members):
    return {record.patient for record in members}


def test_as_given_scores_every_image_where_it_lies():
    given = records("val", 3, 3) + records("test", 2, 1) + records("all", 1, 0)
    result = splits.as_given(given)
    assert {name: len(members) for name, members in result.items()} == {"val": 6, "test": 3, "all": 1}
    assert all(record.split == name for name, members in result.items() for record in members)


def test_a_missing_val_is_carved_and_said():
    given = records()
    result, notes = training(given)
    assert set(result) == {"train", "val"}
    assert sorted(result["train"] + result["val"]) == sorted(given), "each image lies in one split, once"
    negatives, positives = counts(result["val"])
    assert notes == [f"val is carved from train: {negatives} normal, {positives} pneumonia, grouped by patient."]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("per_patient", [1, 3, 10])
def test_carving_takes_the_share_of_either_class(fraction, per_patient):
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
    """A val image that is trained on after the data grew would make the old and new val figures lie."""
    old = records()
    before = ids(carved(old)["val"])
    after = ids(carved(old + records(normal=30, pneumonia=90, salt="new"))["val"])
    moved = (before ^ after) & ids(old)
    assert len(moved) <= 0.15 * len(before)
    # A carving that is drawn anew would keep a tenth.
    assert len(before & after) >= 0.85 * len(before)


def test_the_seed_decides():
    assert carved(records(), seed=3) == carved(records(), seed=3)
    first, second = (ids(carved(records(), seed=seed)["val"]) for seed in (0, 1))
    assert len(first & second) < 0.4 * len(first)


def test_val_and_test_are_drawn_apart():
    """With one salt for both, test would be what a larger val had taken."""
    val = ids(carved(records(), val=0.3)["val"])
    test = ids(carved(records() + records("val", 50, 50), test=0.3)["test"])
    assert len(val & test) < 0.6 * len(val)


@pytest.mark.parametrize(("normal", "pneumonia"), [(49, 200), (200, 49), (8, 8), (0, 60)])
def test_a_small_val_is_looked_at_but_never_chosen_by(normal, pneumonia):
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
        (records("test", 60, 60), "no train split, only test"),
        (records(normal=0), "train split has no normal"),
        (records(pneumonia=0), "train split has no pneumonia"),
        (records("all", pneumonia=0), "train split has no pneumonia"),
        ([*records(), Record("odd one", None, "x", "train")], "1 images have no label, such as odd one"),
    ],
)
def test_what_cannot_be_trained_on(given, says):
    with pytest.raises(UserError, match=says) as caught:
        splits.require_trainable(given)
    assert "\n" not in str(caught.value)
    splits.require_trainable(records())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (records(normal=30, per_patient=30), "val split has no normal image: too few patients"),
        (records(normal=3, pneumonia=3), "val split has no normal image: too few patients"),
        ([Record(f"{i}", i % 2, "the only one", "train") for i in range(100)], "too few patients"),
    ],
)
def test_what_cannot_be_carved(given, says):
    with pytest.raises(UserError, match=says):
        training(given)


def test_a_subset_has_the_numbers_asked_for_and_leaves_other_splits_alone():
    given = records() + records("val", 60, 60)
    drawn = splits.subset(given, (10, 70), seed=0)
    assert counts([record for record in drawn if record.split == "train"]) == (10, 70)
    assert [record for record in drawn if record.split == "val"] == records("val", 60, 60)
    assert drawn == splits.subset(given, (10, 70), seed=0)
    assert ids(drawn) < ids(splits.subset(given, (11, 71), seed=0)), "a larger one holds the smaller"
    assert len(ids(drawn) & ids(splits.subset(given, (10, 70), seed=1))) < 120 + 30
    with pytest.raises(UserError, match="301 normal images is asked for, and train has 300"):
        splits.subset(given, (301, 1), seed=0)


def test_the_table_of_splits_brings_them_back():
    given = [*records(normal=3, pneumonia=4), Record('comma, "quote"\nline', 1, "x", "train")]
    before = {"train": tuple(given[:4]), "val": tuple(given[5:])}
    table = splits.to_csv(before, given)
    assert table.startswith("id,label,split\n")
    assert f"\n{given[4].id},1,\n" in table, "one that is in no split is listed too"
    assert splits.from_csv(table, given) == before
    for changed in (given[1:], [given[0]._replace(label=1), *given[1:]], [*given, Record("new", 0, "y", "train")]):
        with pytest.raises(ValueError):
            splits.from_csv(table, changed)


def test_a_share_that_leaves_nothing_to_train_on():
    with pytest.raises(UserError, match="train split has no"):
        training(records(), val=0.999)


def test_a_test_split_that_would_be_empty():
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
