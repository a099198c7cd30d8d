"""What lies in two splits at once is found, by patient and by picture, and refused in one line."""

import pytest

from pneumojax.data import leakage
from pneumojax.data.records import Record
from pneumojax.errors import UserError

RECORDS = tuple(
    Record(f"{split}/{number}", number % 2, f"{split} patient {number // 2}", split)
    for split in ("train", "test")
    for number in range(6)
)


def test_without_pictures_in_common_nothing_is_tied():
    assert leakage.tied(RECORDS, []) == RECORDS
    assert leakage.crossing(RECORDS) == []
    leakage.refuse([])


def test_a_picture_ties_all_images_of_its_patients():
    """Of train/0 and train/1, one patient, and train/4 and train/5, another: all four go together."""
    tied = {record.id: record.patient for record in leakage.tied(RECORDS, [["train/1", "train/4"]])}
    assert len({tied[f"train/{number}"] for number in (0, 1, 4, 5)}) == 1
    assert len(set(tied.values())) == 5


def test_ties_are_transitive():
    tied = leakage.tied(RECORDS, [["train/0", "train/2"], ["test/0", "test/2"], ["train/3", "test/1"]])
    assert len({record.patient for record in tied}) == 3
    [crossing] = leakage.crossing(tied)
    assert {record.id for record in crossing} == {
        f"{split}/{number}" for split in ("train", "test") for number in range(4)
    }


def test_ids_that_are_not_among_the_records_do_not_matter():
    """Such as those left out by a subset."""
    assert leakage.tied(RECORDS, [["gone/0", "train/0"]]) == RECORDS


def test_a_picture_in_two_splits_is_refused():
    crossing = leakage.crossing(leakage.tied(RECORDS, [["train/1", "test/4"]]))
    with pytest.raises(
        UserError, match=r"^1 patients or pictures lie in more than one split, such as train.\d and test.\d"
    ) as told:
        leakage.refuse(crossing)
    assert "allow_leakage" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_patient_in_two_splits_is_found():
    moved = (*RECORDS[1:], RECORDS[0]._replace(split="val"))
    assert [{record.id for record in own} for own in leakage.crossing(moved)] == [{"train/0", "train/1"}]
