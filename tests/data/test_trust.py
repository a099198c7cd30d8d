"""Trust in labels: who is trusted how far, which images train, and which judge."""

import numpy as np
import pytest

from pneumojax.data import splits, trust
from pneumojax.data.source import Record, at, split_of
from pneumojax.runtime.errors import UserError


def films(count=200, patients_of=2):
    """Films of `count` patients, each read once by a radiologist and once by a program; every third has pneumonia."""
    return [
        Record(f"{number:03d}-{who}", int(number % 3 == 0), f"p{number // patients_of}", "all", "", (("by", who),))
        for number in range(count)
        for who in ("radiologist", "text")
    ]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("text=0.3,box=1", {"text": 0.3, "box": 1.0}),
        ("text=0", {"text": 0.0}),
        ("a b=.5,c=1.0", {"a b": 0.5, "c": 1.0}),
        ("", {}),
    ],
)
def test_weights_are_read(text, weights):
    assert not text or trust.FORM.fullmatch(text)
    assert trust.weights_in(text) == weights


@pytest.mark.parametrize(
    "text", ["text", "text=", "text=2", "text=1.5", "text=-1", "=1", "text=0.3,", "text=nan", "a=b=1"]
)
def test_other_texts_are_no_weights(text):
    assert not trust.FORM.fullmatch(text)


def test_images_of_other_values_and_without_any_weigh_1():
    """A site without the column, such as the children beside the adults, is trusted."""
    records = [*films(3), Record("x", 0, "x", "all")]
    weights = [record.weight for record in trust.weighted(records, {"text": 0.3}, "by")]
    assert weights == [1, 0.3] * 3 + [1]
    assert trust.weighted(records, {}, "by") == tuple(records)


def test_a_value_or_column_that_no_image_has_is_refused():
    """A misspelt value would silently trust every label."""
    with pytest.raises(
        UserError, match="no image has by 'txt': --config.data.trust takes values such as radiologist, text"
    ):
        trust.weighted(films(3), {"txt": 0.3}, "by")
    with pytest.raises(UserError, match="no CSV beside the images has the column read_by: set"):
        trust.weighted(films(3), {"text": 0.3}, "read_by")


def test_the_counts_are_remarked():
    [note] = trust.note(trust.weighted(films(3), {"text": 0.3}, "by"))
    assert note.startswith("By the trust in labels: 3 images of weight 0.3, 3 images of weight 1.")
    assert trust.note(films(3)) == []


def test_only_trusted_labels_judge():
    """Val chooses the epoch and the threshold: labels that are often wrong would choose wrongly."""
    records = trust.weighted(films(), {"text": 0.3}, "by")
    chosen, notes = splits.for_training(records, splits.Carving(val_fraction=0.2, test_fraction=0.1, folds=5))
    judging = [record for name, members in chosen.items() if name != "train" for record in members]
    assert {record.weight for record in judging} == {1.0}
    assert {record.weight for record in chosen["train"]} == {0.3, 1.0}
    assert not {record.patient for record in judging} & {record.patient for record in chosen["train"]}
    assert len(chosen["held_out"]) == 40, "a fifth of the trusted images, not of all"
    assert len(chosen["val"]) == pytest.approx(0.2 * 160, abs=2)
    # Each judging image has a twin of the same patient, read by a program.
    assert f"Only trusted labels judge: {len(judging)} images of less than full weight left out beside train." in notes


def test_folds_hold_out_each_trusted_image_once():
    records = trust.weighted(films(), {"text": 0.3}, "by")
    held = [splits.for_training(records, splits.Carving(folds=4, fold=fold))[0]["held_out"] for fold in range(4)]
    assert sorted(record.id for fold in held for record in fold) == sorted(r.id for r in records if r.weight == 1)


def test_a_weight_of_0_leaves_images_out_of_every_split():
    records = trust.weighted(films(), {"text": 0.0}, "by")
    chosen, notes = splits.for_training(records, splits.Carving(val_fraction=0.2))
    assert {record.weight for members in chosen.values() for record in members} == {1.0}
    without, _ = splits.for_training([r for r in films() if r.id.endswith("gist")], splits.Carving(val_fraction=0.2))
    assert {name: [r.id for r in own] for name, own in chosen.items()} == {
        name: [r.id for r in own] for name, own in without.items()
    }
    assert not any("Only trusted" in note for note in notes)


def test_given_splits_keep_their_trusted_images():
    records = [
        *(record._replace(split="train") for record in films()),
        *(record._replace(split="val", id=f"v{record.id}", patient=f"v{record.patient}") for record in films()),
        *(record._replace(split="test", id=f"t{i}", patient=f"t{i}") for i, record in enumerate(films()[1::2])),
    ]
    chosen, _ = splits.for_training(trust.weighted(records, {"text": 0.5}, "by"), splits.Carving())
    assert (len(chosen["train"]), len(chosen["val"])) == (400, 200)
    assert "test" not in chosen, "it has no trusted image"


def test_the_weights_are_stored_with_the_splits():
    """So a run is refused to labels that are trusted otherwise."""
    given = films()
    chosen, _ = splits.for_training(trust.weighted(given, {"text": 0.3}, "by"), splits.Carving())
    table = splits.to_csv(chosen, given)
    assert table.splitlines()[0] == "id,label,split,weight"
    assert "001-text,0,train,0.3" in table.splitlines()
    again = splits.from_csv(table, given)
    assert {name: [r.id for r in own] for name, own in again.items()} == {
        name: [r.id for r in own] for name, own in chosen.items()
    }
    assert {name: len(labels) for name, labels in splits.labels_in_csv(table).items()} == {
        name: len(own) for name, own in chosen.items()
    }
    plain, _ = splits.for_training(given, splits.Carving())
    assert splits.to_csv(plain, given).splitlines()[0] == "id,label,split"


def test_a_split_to_train_with_has_the_weights():
    records = trust.weighted(films(2), {"text": 0.25}, "by")
    assert split_of("train", records, lambda places: places).weights.tolist() == [1, 0.25, 1, 0.25]
    assert split_of("train", films(2), lambda places: places).weights is None


def test_images_at_some_places_of_a_split_keep_what_belongs_to_them():
    whole = split_of("train", films(4), lambda places: places)
    some = at(whole, np.array([3, 1]))
    assert some.ids.tolist() == [whole.ids[3], whole.ids[1]] and some.labels.tolist() == whole.labels[[3, 1]].tolist()
    assert some.read(np.array([1, 0])).tolist() == [1, 3]
    assert {column: values.tolist() for column, values in some.groups.items()} == {
        column: values[[3, 1]].tolist() for column, values in whole.groups.items()
    }
