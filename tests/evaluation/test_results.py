"""The files of an evaluation, and what the terminal shows of it."""

import numpy as np
import pytest
from etils import epath

from pneumojax.evaluation import metrics, results
from pneumojax.evaluation.calibration import Calibration
from pneumojax.runtime.errors import UserError

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


def test_another_source_of_the_same_name_is_refused(splits, tmp_path):
    """Its evaluation would overwrite the first one's."""
    split, workdir = splits["test"], epath.Path(tmp_path)
    results.refuse_other_source(workdir, "test", "/first/films")
    origin = {"source": "/first/films"}
    results.write(workdir, "test", split, np.linspace(-3, 3, len(split.ids)), CALIBRATION, origin)
    results.refuse_other_source(workdir, "test", "/first/films")
    with pytest.raises(UserError, match="test.json is the evaluation of /first/films: rename that file"):
        results.refuse_other_source(workdir, "test", "/second/films")


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
