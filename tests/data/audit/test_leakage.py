"""Patients and pictures in two splits are found, and refused in one line."""

import numpy as np
import pytest

from pneumojax.data.audit import leakage
from pneumojax.data.source import Record
from pneumojax.runtime.errors import UserError

RECORDS = tuple(
    Record(f"{split}/{number}", number % 2, f"{split} patient {number // 2}", split)
    for split in ("train", "test")
    for number in range(6)
)


def test_without_shared_pictures_nothing_changes():
    assert leakage.tied(RECORDS, []) == RECORDS
    assert leakage.crossing(RECORDS) == []
    leakage.refuse([])


def test_a_shared_picture_merges_its_patients():
    """Train/0 and train/1 show one patient, train/4 and train/5 another: all four must stay together."""
    tied = {record.id: record.patient for record in leakage.tied(RECORDS, [["train/1", "train/4"]])}
    assert len({tied[f"train/{number}"] for number in (0, 1, 4, 5)}) == 1
    assert len(set(tied.values())) == 5


def test_merging_is_transitive():
    tied = leakage.tied(RECORDS, [["train/0", "train/2"], ["test/0", "test/2"], ["train/3", "test/1"]])
    assert len({record.patient for record in tied}) == 3
    [crossing] = leakage.crossing(tied)
    assert {record.id for record in crossing} == {
        f"{split}/{number}" for split in ("train", "test") for number in range(4)
    }


def test_ids_of_other_images_are_ignored():
    """Groups may name images that a subset leaves out."""
    assert leakage.tied(RECORDS, [["gone/0", "train/0"]]) == RECORDS
    assert leakage.tied(RECORDS, [["gone/0", "gone/1"], []]) == RECORDS
    assert leakage.tied([], [["gone/0", "gone/1"]]) == ()


def merged_one_by_one(records, copies):
    """Merge patients by hand: with each group, all patients in it and in earlier merges get the smallest name."""
    patient = {record.id: record.patient for record in records}
    for group in copies:
        shared = {patient[id] for id in group if id in patient}
        patient = {id: min(shared) if name in shared else name for id, name in patient.items()}
    return tuple(record._replace(patient=patient[record.id]) for record in records)


@pytest.mark.parametrize("seed", range(30))
def test_merged_patients_get_the_smallest_of_their_names(seed):
    """Splits are a hash of these names: they must not depend on how the merging is done."""
    rng = np.random.default_rng(seed)
    names = [f"p{number}" for number in rng.permutation(1000)[:40]]
    records = tuple(Record(f"{i}", i % 2, str(rng.choice(names)), "train") for i in range(100))
    sizes = rng.integers(1, 5, rng.integers(1, 30))
    copies = [[str(id) for id in rng.integers(0, 120, size)] for size in sizes]
    assert leakage.tied(records, copies) == merged_one_by_one(records, copies)


def test_a_picture_in_two_splits_is_refused():
    crossing = leakage.crossing(leakage.tied(RECORDS, [["train/1", "test/4"]]))
    says = r"^images of one patient or picture lie in more than one split \(1 group, such as train.\d and test.\d\)"
    with pytest.raises(UserError, match=says) as caught:
        leakage.refuse(crossing)
    assert "allow_leakage" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_patient_in_two_splits_is_found():
    moved = (*RECORDS[1:], RECORDS[0]._replace(split="val"))
    assert [{record.id for record in group} for group in leakage.crossing(moved)] == [{"train/0", "train/1"}]
