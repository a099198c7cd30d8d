"""The report: self-contained, safe, honest about the majority baseline, and written for any run there is."""

import base64
import hashlib
import html
import json
import re

import numpy as np
import pytest
from etils import epath
from page_outline import HOSTILE, Outline, require_self_contained, row, section, words

from pneumojax.inference.worst_errors import METHOD, Neighbour, WorstError
from pneumojax.reports import figures, run_report


def evaluation(accuracy, interval, majority=0.625, **changes):
    pairs = {"auc": 0.91, "balanced_accuracy": 0.85, "sensitivity": 0.9, "specificity": 0.8, "bce": 0.3}
    summary = {"n": 624, "positives": 390, "threshold": 0.4, "majority_accuracy": majority}
    for suffix in ("", "_at_0.5"):
        summary[f"confusion{suffix}"] = {"tp": 351, "fp": 47, "fn": 39, "tn": 187}
    for key, value in (pairs | {"accuracy": accuracy}).items():
        summary |= {key: value, f"{key}_ci": [value - 0.03, value + 0.03]}
    return summary | {"accuracy_ci": interval} | changes


GOOD = evaluation(0.9, [0.87, 0.92])


def put(workdir, name, summary=GOOD, labels=(0, 0, 1, 1), identifier="a"):
    folder = workdir / "evaluation"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(summary))
    rows = [f"{identifier}{i},{label},{(i + 1) / (len(labels) + 1)}" for i, label in enumerate(labels)]
    (folder / f"{name}.csv").write_text("\n".join(["id,label,probability", *rows]) + "\n")


@pytest.fixture(autouse=True)
def few_bootstraps(monkeypatch):
    """Keep the tests fast: what a band shows is tested in test_figures.py."""
    monkeypatch.setattr(figures, "BOOTSTRAPS", 10)


@pytest.fixture
def workdir(tmp_path):
    config = {"name": "m1", "recipe": "default", "seed": 0, "epochs": 3, "data": {"source": "phantom"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": 10 * epoch, "epoch": epoch, "split": split, "bce": 1 / epoch, "accuracy": 0.7 + epoch / 20,
         "auc": None if epoch == 1 else 0.6 + epoch / 10}
        for epoch in (1, 2, 3) for split in ("train", "val")
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def page_of(workdir, **changes):
    image = np.arange(150 * 150, dtype=np.uint8).reshape(150, 150)
    samples = [("train", label, f"image{label}{i}", image) for label in (0, 1) for i in range(8)]
    arguments = {"layer_table": "conv1 (Conv)   320", "samples": samples} | changes
    path = run_report.write(epath.Path(workdir), **arguments)
    assert str(path) == str(workdir / "report" / "index.html")
    return path.read_text()


def test_the_page_is_self_contained(workdir):
    for name in ("train", "val", "test"):
        put(workdir, name)
    page = page_of(workdir, notice="Synthetic phantom radiographs, not patients.")
    outline = require_self_contained(page)
    assert outline.tags.count("svg") == 3 + 3 * 3, "three curves; for each split ROC, precision-recall, reliability"
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert referred and set(referred) <= set(outline.ids)
    assert page.index("Synthetic phantom") < page.index("Verdict on")
    assert len(page.encode()) < 10 * 2**20
    assert list((workdir / "report").iterdir()) == [workdir / "report" / "index.html"]


def group(by, name, balanced, auc=0.8):
    metrics = {"auc": auc, "balanced_accuracy": balanced, "sensitivity": 0.8, "specificity": None, "ece": 0.1}
    found = {"by": by, "group": name, "n": 1234, "positives": 600}
    for key, value in metrics.items():
        found |= {key: value, f"{key}_ci": None if value is None else [value - 0.1, value + 0.1]}
    return found | {"specificity_reason": "fewer than 10 negatives"}


def test_the_verdict_names_the_worst_site(workdir):
    """A good mean must not hide the hospital where the model fails."""
    groups = [group("view", "AP", 0.6), group("site", "far", 0.7, auc=0.55), group("site", "near", 0.9)]
    put(workdir, "test", evaluation(0.9, [0.87, 0.92], groups=groups))
    small = group("site", "small", None)
    put(workdir, "other-all", evaluation(0.9, [0.87, 0.92], groups=[groups[2], small]))
    page = words(page_of(workdir))
    assert (
        "The worst site is far (1,234 images): balanced accuracy 0.700 (95% CI 0.600–0.800), AUC 0.550"
        " (95% CI 0.450–0.650), not shown to be better than chance." in page
    )
    assert page.count("worst site") == 1, "one site alone is not the worst"
    assert "There are too few images of small to compare sites." in page
    assert page.index("view AP 1,234 600 0.800") < page.index("site far 1,234 600 0.550") < page.index("site near")


def test_groups_are_shown_where_there_are_some(workdir):
    put(workdir, "test")
    page = page_of(workdir)
    assert "Sites and subgroups" not in page and "worst site" not in page
    put(workdir, "test", evaluation(0.9, [0.87, 0.92], groups=[group("site", HOSTILE, 0.7)]))
    assert Outline(page_of(workdir)).tags.count("script") == 1


def test_damaged_groups_do_not_stop_the_report(workdir):
    put(workdir, "test")
    put(workdir, "val", evaluation(0.9, [0.87, 0.92], groups=[{"by": "site"}]))
    assert "Verdict on test" in page_of(workdir)


def test_figures_follow_the_theme_and_are_described(workdir):
    put(workdir, "val")
    page = page_of(workdir)
    pattern = r"<figure>\s*<svg (.*?)>(.*?)</svg>\s*<figcaption>(.*?)</figcaption>"
    drawn = re.findall(pattern, page, re.DOTALL)
    assert len(drawn) == 6
    for opening, drawing, caption in drawn:
        assert 'role="img"' in opening and re.search(r'aria-label="[^"]{20,}"', opening) and caption
        # A fixed colour, even white or black, would be invisible on a light or a dark screen.
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {"none", *figures.THEME.values()}
    assert "always pneumonia (val)" in drawn[0][1]
    assert "always" not in drawn[1][1]


def test_a_report_on_many_large_images_stays_small(workdir):
    rng = np.random.default_rng(0)
    put(workdir, "train", GOOD, labels=rng.integers(0, 2, 8000))
    noise = rng.integers(0, 256, (1024, 1024), dtype=np.uint8)
    samples = [(split, i % 2, str(i), noise) for split in ("train", "val", "test") for i in range(30)]
    page = page_of(workdir, samples=samples)
    assert page.count("<img") == 3 * 2 * run_report.SAMPLES_PER_CLASS
    assert len(page.encode()) < 1.5 * 2**20


def test_names_and_reasons_are_escaped(workdir):
    config = {"name": "m1", "data": {"source": HOSTILE}, "other": {HOSTILE: HOSTILE}}
    (workdir / "config.json").write_text(json.dumps(config))
    undefined = {"auc": None, "auc_ci": None, "auc_reason": HOSTILE}
    put(workdir, "test", evaluation(0.9, [0.87, 0.92], **undefined), identifier=HOSTILE)
    put(workdir, "val", evaluation(0.9, None, accuracy_ci_reason=HOSTILE))
    put(workdir, "<script>-test")
    put(workdir, "<script>")
    samples = [(HOSTILE, 1, HOSTILE, np.zeros((8, 8), np.uint8))]
    page = page_of(workdir, samples=samples, layer_table=HOSTILE, notice=HOSTILE)
    assert Outline(page).tags.count("script") == 1, "only the page's own"
    assert page.count("&lt;script&gt;alert(") >= 8


def test_only_the_pages_own_script_may_run(workdir):
    """The Content-Security-Policy names its hash."""
    put(workdir, "val")
    page = page_of(workdir)
    [code] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert f"script-src 'sha256-{digest}';" in policy
    assert "script-src 'unsafe" not in policy


@pytest.mark.parametrize(
    ("interval", "place"),
    [([0.84, 0.9], "below"), ([0.8376, 0.9], "within"), ([0.78, 0.88], "within"), ([0.6, 0.7], "above")],
)
def test_the_verdict_compares_the_interval_with_the_majority(workdir, interval, place):
    put(workdir, "val", evaluation(0.86, interval, majority=0.8376, n=234, positives=196))
    page = page_of(workdir)
    verdict = words(section(page, "Verdict on val"))
    claim = "Better" if place == "below" else "Not shown to be better"
    assert verdict.startswith(
        f"{claim} than always predicting pneumonia. Accuracy on the 234 val images is 0.860"
        f" (95% CI {interval[0]:.3f}–{interval[1]:.3f}). Always predicting pneumonia scores 0.838, {place} that"
        " interval."
    )
    assert ('class="verdict better"' in page) == (place == "below")
    assert row(page, "Majority baseline") == [[["0.838"]], [["0.838"]]]


def test_the_verdict_is_on_the_test_split_and_names_the_larger_class(workdir):
    put(workdir, "train", evaluation(0.99, [0.98, 1.0]))
    put(workdir, "val", evaluation(0.99, [0.98, 1.0]))
    put(workdir, "test", evaluation(0.7, [0.6, 0.8], majority=0.75, n=400, positives=100))
    page = page_of(workdir)
    assert "Verdict on test" in page and "Verdict on val" not in page
    assert "Not shown to be better than always predicting normal." in page
    assert row(page, "Majority baseline")[0] == [["0.750"], ["0.625"], ["0.625"]]
    assert row(page, "Accuracy")[0][0] == ["0.700", "0.600–0.800"]


def test_an_undefined_score_has_its_reason(workdir):
    undefined = ("auc", "balanced_accuracy", "specificity")
    missing = dict.fromkeys(f"{key}{end}" for key in undefined for end in ("", "_ci"))
    reasons = {f"{key}_reason": "only one class present" for key in undefined}
    summary = evaluation(0.95, [0.9, 0.98], majority=1.0, n=624, positives=624, **missing, **reasons)
    put(workdir, "test", summary, labels=(1, 1, 1))
    page = page_of(workdir)
    Outline(page)
    assert row(page, "AUC") == [[["undefined", "only", "one", "class", "present"]]]
    assert "undefined (only one class present). No curve: images of one class only." in page
    assert "Not shown to be better than always predicting pneumonia." in page
    assert not re.search(r"\b(nan|None|null)\b", page.partition("</style>")[2].partition("<details>")[0])


def test_an_accuracy_without_an_interval_is_not_shown_to_be_better(workdir):
    put(workdir, "test", evaluation(0.99, None, accuracy_ci_reason="too few cases"))
    page = page_of(workdir)
    assert "Not shown to be better" in page and "is undefined: too few cases." in page


def test_every_operating_point_has_its_scores(workdir):
    """A reader who must not miss pneumonia needs another threshold than one who weighs both errors equally."""
    second = {
        "threshold_sens95": 0.125, "balanced_accuracy_at_sens95": 0.775, "sensitivity_at_sens95": 0.95,
        "sensitivity_at_sens95_ci": [0.9, 0.97], "specificity_at_sens95": 0.6, "accuracy_at_sens95": 0.8,
        "sensitivity_at_0.5": 0.925, "specificity_at_0.5": 0.7,
    }  # fmt: skip
    put(workdir, "val", evaluation(0.9, [0.87, 0.92], **second))
    put(workdir, "test")  # written by an earlier version
    page = page_of(workdir)
    # Columns: test, val. Groups of rows: at the balanced threshold, at the sensitive one, at 0.5.
    assert row(page, "Threshold") == [[["0.400"], ["0.400"]], [["–"], ["0.125"]]]
    at_stored, at_sens95, at_half = row(page, "Sensitivity")
    assert at_stored == [["0.900", "0.870–0.930"]] * 2
    assert at_half == [["–"], ["0.925"]]
    assert at_sens95 == [["–"], ["0.950", "0.900–0.970"]]
    assert row(page, "Specificity")[1] == [["–"], ["0.600"]]
    assert row(page, "Balanced accuracy")[1] == [["–"], ["0.775"]]
    assert row(page, "Accuracy")[1] == [["–"], ["0.800"]]


def test_calibration_is_shown_before_and_after(workdir):
    """For each split: a reliability diagram, and the calibration errors."""
    fitted = {
        "temperature": 1.5, "offset": -0.25, "prevalence": 0.625, "ece": 0.021, "ece_ci": [0.018, 0.045],
        "ece_uncalibrated": 0.094, "brier": 0.062, "brier_uncalibrated": 0.081,
    }  # fmt: skip
    put(workdir, "val", evaluation(0.9, [0.87, 0.92], **fitted))
    put(workdir, "test", evaluation(0.9, [0.87, 0.92], **fitted | {"ece_uncalibrated": 0.03}))
    put(workdir, "elsewhere-test", evaluation(0.9, [0.87, 0.92], **fitted))
    page = page_of(workdir)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", section(page, "Calibration"))
    assert captions == [
        f"<b>{split}:</b> ECE {before} before calibration, 0.021 (95% CI 0.018–0.045) after"
        " (temperature 1.500, offset -0.250)."
        for split, before in (("test", "0.030"), ("val", "0.094"))
    ]
    assert row(page, "Temperature")[0] == [["1.500"], ["1.500"]]
    assert row(page, "Assumed prevalence")[0] == [["0.625"], ["0.625"]]
    assert row(page, r"Calibration error \(ECE\)")[0] == [["0.021", "0.018–0.045"]] * 2
    assert row(page, r"Calibration error \(ECE\), uncalibrated")[0] == [["0.030"], ["0.094"]]
    assert row(page, "Brier score, uncalibrated")[0] == [["0.081"], ["0.081"]]
    (workdir / "evaluation" / "test.csv").unlink()
    assert section(page_of(workdir), "Calibration").count("<svg") == 1, "no diagram without probabilities"


def test_a_new_run_has_a_page_too(workdir):
    page = page_of(workdir, samples=[])
    assert "has not been evaluated yet" in page and "Confusion" not in page and "<h2>Data" not in page
    assert Outline(page).tags.count("svg") == 3
    (workdir / "metrics.jsonl").unlink()
    assert Outline(page_of(workdir, samples=[])).tags.count("svg") == 0


def test_an_evaluation_without_probabilities_says_so(workdir):
    put(workdir, "test")
    (workdir / "evaluation" / "test.csv").unlink()
    assert "No curve: no probabilities recorded." in page_of(workdir)


def test_other_sources_have_their_own_table(workdir):
    put(workdir, "val")
    put(workdir, "rsna-small-test", evaluation(0.511, [0.5, 0.52]))
    page = page_of(workdir)
    own, rest = page.split("<h2>Other data")
    other, rest = rest.split("<h2>Training")
    assert "Verdict on val" in own and "rsna" not in own
    assert row(own, "Accuracy")[0] == [["0.900", "0.870–0.920"]]
    assert '<th scope="col">rsna-small-test</th>' in other
    assert row(other, "Accuracy")[0] == [["0.511", "0.500–0.520"]]
    assert "rsna" not in rest


def test_the_last_line_of_an_epoch_counts_and_half_a_line_is_skipped(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "epoch": 3, "split": "val", "bce": 0.123, "accuracy": 0.5}) + "\n")
        file.write('{"step": 40, "epoch": 4, "spl')
    page = page_of(workdir)
    assert "val 0.123 at epoch 3" in page and "val 0.500 at epoch 3" in page
    assert "val 0.800 at epoch 2" in page  # the last line has no AUC


def test_equal_runs_give_equal_bytes(workdir):
    put(workdir, "test", GOOD, labels=(0, 1) * 20)
    first = page_of(workdir)
    put(workdir, "test", GOOD, labels=(0, 1) * 20)
    assert page_of(workdir) == first
    assert str(workdir) not in first


def test_the_data_section_has_composition_remarks_and_audit(workdir):
    composition = {
        "train": {"n": 3, "normal": 1, "pneumonia": 2, "majority_accuracy": 2 / 3},
        "val": {"n": 1, "normal": 1, "pneumonia": 0, "majority_accuracy": 1.0},
    }
    remarks = ["2 groups (4 images) identical.", HOSTILE]
    page = page_of(workdir, composition=composition, remarks=remarks)
    data = section(page, "Data")
    assert row(data, "train")[0] == [["3"], ["1"], ["2"], ["0.667", "always", "pneumonia"]]
    assert row(data, "val")[0][3] == ["1.000", "always", "normal"]
    assert "<li>2 groups (4 images) identical.</li>" in data and HOSTILE not in page
    assert "Full audit" not in data
    finding = {"kind": "truncated", "short": "7 images cut short"}
    (workdir / "audit").mkdir()
    (workdir / "audit" / "audit.json").write_text(json.dumps({"findings": [finding], "splits": {"all": {"n": 9}}}))
    assert 'Audit: 9 images; 7 images cut short. <a href="../audit/index.html"' in page_of(workdir)


def test_the_slider_has_the_confusion_at_every_step(workdir):
    labels, probabilities = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.5, 0.3, 0.5, 0.9])
    slider = run_report.slider("val", {"scores": (labels, probabilities), "threshold": 0.42})
    assert slider.confusion == {"tp": 2, "fp": 1, "fn": 1, "tn": 1}
    for step in range(run_report.SLIDER_STEPS + 1):
        predicted = probabilities >= step / run_report.SLIDER_STEPS - 1e-9
        assert slider.positives["fp"][step] == np.sum(predicted & (labels == 0))
        assert slider.positives["tp"][step] == np.sum(predicted & (labels == 1))
    put(workdir, "val", labels=labels)
    counts = json.loads(html.unescape(re.search(r'data-counts="([^"]*)"', page_of(workdir))[1]))
    assert (counts["fp"][0], counts["tp"][0]) == (2, 3), "at threshold 0 all are positive"


def worst_error(unlike=False):
    image = np.zeros((8, 8), np.uint8)
    nearest = [Neighbour("train <2>", label, 0.25, image) for label in (0, 1)]
    return WorstError("test <1>", 1, 0.1, image, np.zeros((8, 8, 3), np.uint8), unlike, nearest)


def test_a_worst_error_is_shown_with_its_explanation_and_neighbours(workdir):
    errors = section(page_of(workdir, errors=[worst_error()], samples=[]), "Worst errors")
    assert errors.count("<img ") == 4
    assert "test &lt;1&gt;" in errors and "test <1>" not in errors
    assert "Actual pneumonia, predicted normal. Probability of pneumonia 0.100. test" in words(errors)
    assert "normal, distance 0.25" in errors and "pneumonia, distance 0.25" in errors
    assert "fail their checks" not in errors and "Out of distribution" not in errors
    assert "Out of distribution" in page_of(workdir, errors=[worst_error(unlike=True)])


def test_an_explanation_method_that_fails_its_checks_has_a_warning(workdir):
    measured = {"rank_correlation": 0.9, "deletion": 0.1, "insertion": 0.9}
    measured |= {"random_deletion": 0.5, "random_insertion": 0.5}
    checks = {"split": "test", "images": 3, "epoch": 2, "methods": {METHOD: measured}}
    (workdir / "explanations").mkdir()
    (workdir / "explanations" / "checks.json").write_text(json.dumps(checks))
    page = page_of(workdir, errors=[worst_error()])
    assert f"{METHOD.replace('-', ' ').capitalize()} fail their checks: its maps are" in page
    assert row(page, METHOD)[0][:3] == [["0.900"], ["0.100"], ["0.900"]]
    (workdir / "explanations" / "checks.json").write_text(json.dumps(checks | {"methods": {"grad-cam": measured}}))
    assert "fail their checks" not in page_of(workdir, errors=[worst_error()]), "the method was not checked"


def test_the_page_names_the_machine(workdir):
    text = html.unescape(page_of(workdir))
    assert '"cores": ' in text and '"cpu": ' in text
