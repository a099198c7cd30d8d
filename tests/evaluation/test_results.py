"""The files of an evaluation, and what the terminal shows of it."""

import json
import re

import numpy as np
import pytest
from etils import epath

from pneumojax.evaluation import groups, metrics, results
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.corruptions import CLEAN, CORRUPTIONS

CALIBRATION = Calibration(temperature=2.0, threshold=0.5, threshold_sens95=0.25, prevalence=0.5, offset=1.0)


@pytest.mark.parametrize("notice", ["Synthetic.", None])
def test_the_files_hold_the_sources_notice_and_every_probability(splits, tmp_path, notice):
    split = splits["test"]
    logits = np.linspace(-3, 3, len(split.ids))
    origin = {"epoch": 3, "source": "/somewhere"} | ({"notice": notice} if notice else {})
    results.write(epath.Path(tmp_path), "test", split, logits, CALIBRATION, origin)
    evaluation = results.read(epath.Path(tmp_path))["test"]
    assert evaluation.get("notice") == notice
    assert (evaluation["epoch"], evaluation["threshold"]) == (3, 0.5)
    labels, probabilities = evaluation["scores"]
    np.testing.assert_array_equal(labels, split.labels)
    np.testing.assert_array_equal(evaluation["ids"], split.ids)
    np.testing.assert_array_equal(probabilities, metrics.probabilities(logits, 2.0, 1.0))


@pytest.fixture
def written(splits, tmp_path):
    """A workdir with an evaluation of test."""
    split = splits["test"]
    results.write(epath.Path(tmp_path), "test", split, np.linspace(-3, 3, len(split.ids)), CALIBRATION, {"epoch": 1})
    return tmp_path


def test_corruptions_of_another_threshold_are_passed_over(splits, written):
    """As after operating points were chosen again."""
    labels, workdir = splits["test"].labels, epath.Path(written)
    summary = results.summarize(labels, np.linspace(-3, 3, len(labels)), CALIBRATION)
    results.write_corruptions(workdir, "test", dict.fromkeys((CLEAN, *CORRUPTIONS), summary))
    assert results.read_corruptions(workdir, "test").keys() == {CLEAN, *CORRUPTIONS}
    change(threshold=0.4)(written)
    assert results.read_corruptions(workdir, "test") == {}


def change(**fields):
    def rewrite(folder):
        path = folder / "evaluation/test.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return rewrite


@pytest.mark.parametrize(
    "harm",
    [
        change(n=41),
        change(n="40"),
        change(threshold=None),
        change(threshold=2.0),
        change(auc=None),
        change(auc="high"),
        change(auc_ci=[1]),
        change(auc_ci=3),
        change(confusion=[1, 2]),
        change(confusion={"tp": 1}),
        change(bce=1e999),
        change(source=3),
        change(run="another run's"),
        lambda folder: (folder / "evaluation/test.json").write_text(""),
        lambda folder: (folder / "evaluation/test.json").write_text("[" * 10_000),
        lambda folder: (folder / "evaluation/test.json").write_text("[]"),
        lambda folder: (folder / "evaluation/test.csv").unlink(),
        lambda folder: (folder / "evaluation/test.csv").write_text("id,label\n"),
        lambda folder: (folder / "evaluation/test.csv").write_text("id,label,probability\na,0,0.5\n"),
        lambda folder: (folder / "evaluation/test.csv").write_bytes(b"\xff\x00"),
    ],
)
def test_a_damaged_evaluation_is_passed_over(written, harm):
    """It is made again; never read as it is."""
    assert list(results.read(epath.Path(written))) == ["test"]
    harm(written)
    assert results.read(epath.Path(written)) == {}


def test_what_is_no_evaluation_is_passed_over_also_where_parts_may_be_missing(written):
    (written / "evaluation/test.json").write_text("[]")
    assert results.read(epath.Path(written), partial=True) == {}


@pytest.mark.parametrize("row", ["a,2,0.5", "a,0,nan", "a,0,1.5", "a,0,x", "a,99999999999999999999,0.5"])
def test_a_damaged_row_is_noticed(written, row):
    path = written / "evaluation/test.csv"
    path.write_text("\n".join([*path.read_text().splitlines()[:-1], row, ""]))
    assert results.read(epath.Path(written)) == {}


def test_a_described_evaluation_has_all_numbers_in_80_columns():
    scores = {"n": 1234, "auc": 0.91234, "auc_ci": [0.81, 0.99], "majority_accuracy": 0.8376}
    scores |= {"balanced_accuracy": 0.5, "balanced_accuracy_ci": [0.4, 0.6], "accuracy": 0.7, "accuracy_ci": [0.6, 0.8]}
    assert results.describe("test", scores).splitlines() == [
        "test (n=1234): auc 0.9123 [0.8100, 0.9900], majority_accuracy 0.8376,",
        "  balanced_accuracy 0.5000 [0.4000, 0.6000], accuracy 0.7000 [0.6000, 0.8000]",
    ]
    undefined = {f"{name}{part}": value for name in ("auc", "balanced_accuracy")
                 for part, value in (("", None), ("_reason", "only one class present"))}  # fmt: skip
    lines = results.describe("a-long-name-of-a-folder-test", scores | undefined).splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines) == (
        "a-long-name-of-a-folder-test (n=1234): auc undefined (only one class present), majority_accuracy 0.8376,"
        " balanced_accuracy undefined (only one class present), accuracy 0.7000 [0.6000, 0.8000]"
    )


@pytest.mark.parametrize(
    ("evaluation", "expected"),
    [
        ({"auc_ci": [0.6, 0.9]}, []),
        ({"auc_ci": [0.3, 0.45]}, ["the model is worse than chance"]),
        ({"auc_ci": [0.3, 0.55]}, ["the model is not shown to be better than chance"]),
        ({"auc_ci": None}, []),  # of one class only
        ({"known_images": 300}, ["The model was trained or chosen on 300 of 300 images of other"]),
        ({"unlike_training": 60}, [r"60 of 300 images of other are unlike the training images \(20%"]),
        ({"unlike_training": 5}, []),  # where 3 are expected
    ],
)
def test_what_makes_scores_worthless_is_said_before_them(evaluation, expected):
    scores = {"n": 300, "auc": 0.45, "majority_accuracy": 0.8, "balanced_accuracy": 0.5, "accuracy": 0.7}
    found = results.warnings("other", scores | evaluation)
    assert len(found) == len(expected)
    for sentence, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, sentence)
    lines = results.describe("other", scores | evaluation).splitlines()
    assert lines[0].startswith("Warning: ") == bool(expected)
    assert max(map(len, lines)) <= 80


def test_the_table_of_groups_fits_80_columns():
    """Names of groups come from CSVs, and may have any length."""
    interval = {f"{name}_ci": [0.0, 1.0] for name in groups.METRICS}
    scores = {"n": 224_316, "positives": 100_000} | dict.fromkeys(groups.METRICS, 0.5) | interval
    found = [{"by": "read_by", "group": name} | scores for name in ("radiologist", "a_reader_with_a_long_name")]
    lines = results.groups_table("test", {"groups": found}).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("read_by radiologist" in line for line in lines) and any("read_by a_reader" in line for line in lines)
