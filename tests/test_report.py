"""The report: self-contained, safe, honest about the majority baseline, and written for any run there is."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pneumojax import figures, metrics, report

VOID = {"meta", "img", "br", "link", "input", "hr", "source", "col"}
HOSTILE = '<script>alert("x")</script>&'


class Outline(HTMLParser):
    """Collects tags, ids and attributes; fails where an end tag closes another element than the open one."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def evaluation(accuracy, interval, majority=0.625, **changes):
    pairs = {"auc": 0.91, "balanced_accuracy": 0.85, "sensitivity": 0.9, "specificity": 0.8, "bce": 0.3}
    found = {"n": 624, "positives": 390, "threshold": 0.4, "majority_accuracy": majority}
    for suffix in ("", "_at_0.5"):
        found[f"confusion{suffix}"] = {"tp": 351, "fp": 47, "fn": 39, "tn": 187}
    for key, value in (pairs | {"accuracy": accuracy}).items():
        found |= {key: value, f"{key}_ci": [value - 0.03, value + 0.03]}
    return found | {"accuracy_ci": interval} | changes


def put(workdir, name, found, labels=(0, 0, 1, 1), identifier="a"):
    folder = workdir / "evaluation"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found))
    rows = [f"{identifier}{i},{label},{(i + 1) / (len(labels) + 1)}" for i, label in enumerate(labels)]
    (folder / f"{name}.csv").write_text("\n".join(["id,label,probability", *rows]) + "\n")


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
    path = report.write(workdir, **arguments)
    assert str(path) == str(workdir / "report" / "index.html")
    return path.read_text()


def row(page, name):
    """The cells' text of each row of the metrics tables with this name."""
    rows = re.findall(rf'<tr[^>]*><th scope="row">{name}</th>(.*?)</tr>', page, re.DOTALL)
    return [[re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall("<td>(.*?)</td>", r)] for r in rows]


def test_page_needs_nothing_else_and_is_well_formed(workdir):
    for name in ("train", "val", "test"):
        put(workdir, name, evaluation(0.9, [0.87, 0.92]))
    page = page_of(workdir, notice="Synthetic phantom radiographs, not patients.")
    outline = Outline(page)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.tags.count("svg") == 3 + 3 * 3  # three curves; for each split ROC, precision-recall, reliability
    assert {"link", "iframe", "object"}.isdisjoint(outline.tags)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert all(value.startswith("data:") for name, value in outline.attributes if name in ("src", "srcset"))
    assert all(value.startswith("#") for name, value in outline.attributes if name.endswith("href"))
    referred = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert referred and set(referred) <= set(outline.ids)
    assert page.index("Synthetic phantom") < page.index("Verdict on")
    assert len(page.encode()) < 10 * 2**20
    assert list((workdir / "report").iterdir()) == [workdir / "report" / "index.html"]


def test_figures_follow_the_theme_and_are_described(workdir):
    put(workdir, "val", evaluation(0.9, [0.87, 0.92]))
    page = page_of(workdir)
    pattern = r"<figure>\s*<svg (.*?)>(.*?)</svg>\s*<figcaption>(.*?)</figcaption>"
    drawn = re.findall(pattern, page, re.DOTALL)
    assert len(drawn) == 6
    for opening, drawing, caption in drawn:
        assert 'role="img"' in opening and re.search(r'aria-label="[^"]{20,}"', opening) and caption
        # A colour written as such, white and black included, would vanish on one of the two screens.
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawing)) <= {"none", *figures.THEME.values()}
    assert "always pneumonia (val)" in drawn[0][1]
    assert "always" not in drawn[1][1]


def test_large_input_stays_small(workdir):
    rng = np.random.default_rng(0)
    put(workdir, "train", evaluation(0.9, [0.87, 0.92]), labels=rng.integers(0, 2, 8000))
    noise = rng.integers(0, 256, (1024, 1024), dtype=np.uint8)
    samples = [(split, i % 2, str(i), noise) for split in ("train", "val", "test") for i in range(30)]
    page = page_of(workdir, samples=samples)
    assert page.count("<img") == 3 * 2 * report.SAMPLES_PER_CLASS
    assert len(page.encode()) < 1.5 * 2**20


def test_foreign_text_is_escaped(workdir):
    config = {"name": "m1", "data": {"source": HOSTILE}, "other": {HOSTILE: HOSTILE}}
    (workdir / "config.json").write_text(json.dumps(config))
    undefined = {"auc": None, "auc_ci": None, "auc_reason": HOSTILE}
    put(workdir, "test", evaluation(0.9, [0.87, 0.92], **undefined), identifier=HOSTILE)
    put(workdir, "val", evaluation(0.9, None, accuracy_ci_reason=HOSTILE))
    put(workdir, "<script>-test", evaluation(0.9, [0.87, 0.92]))
    put(workdir, "<script>", evaluation(0.9, [0.87, 0.92]))
    samples = [(HOSTILE, 1, HOSTILE, np.zeros((8, 8), np.uint8))]
    page = page_of(workdir, samples=samples, layer_table=HOSTILE, notice=HOSTILE)
    assert Outline(page).tags.count("script") == 1, "the page's own, and no other"
    assert page.count("&lt;script&gt;alert(") >= 8


def test_no_script_may_run_but_the_pages_own(workdir):
    """Its digest stands in the policy that the browser keeps to."""
    put(workdir, "val", evaluation(0.9, [0.87, 0.92]))
    page = page_of(workdir)
    [code] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert f"script-src 'sha256-{digest}';" in policy
    assert "script-src 'unsafe" not in policy


def test_precision_and_recall_by_hand():
    """In order of probability: ill, well, ill, ill, well."""
    labels, chances = np.array([1, 0, 1, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.1])
    found = figures.precision_at(labels, chances, np.array([0.1, 1 / 3, 0.5, 2 / 3, 1.0]))
    np.testing.assert_allclose(found, [1, 1, 2 / 3, 2 / 3, 3 / 4])


@pytest.mark.parametrize(
    ("interval", "better"),
    [([0.84, 0.9], True), ([0.8376, 0.9], False), ([0.78, 0.88], False), ([0.6, 0.7], False)],
)
def test_verdict_weighs_the_interval_against_the_majority(workdir, interval, better):
    put(workdir, "val", evaluation(0.86, interval, majority=0.8376, n=234, positives=196))
    page = page_of(workdir)
    verdict = page[page.index("Verdict on val") : page.index("Every split")]
    claim = "Better" if better else "Not shown to be better"
    relation = "lies above" if better else "does not lie above"
    assert f"<strong>{claim} than always answering pneumonia.</strong>" in verdict
    assert f"interval {interval[0]:.3f}–{interval[1]:.3f} {relation} the 0.838" in verdict
    assert ('class="verdict better"' in page) == better
    assert row(page, "Majority baseline") == [[["0.838"]], [["0.838"]]]


def test_verdict_names_the_larger_class_and_prefers_test(workdir):
    put(workdir, "train", evaluation(0.99, [0.98, 1.0]))
    put(workdir, "val", evaluation(0.99, [0.98, 1.0]))
    put(workdir, "test", evaluation(0.7, [0.6, 0.8], majority=0.75, n=400, positives=100))
    page = page_of(workdir)
    assert "Verdict on test" in page and "Verdict on val" not in page
    assert "Not shown to be better than always answering normal." in page
    assert row(page, "Majority baseline")[0] == [["0.750"], ["0.625"], ["0.625"]]
    assert row(page, "Accuracy")[0][0] == ["0.700", "0.600–0.800"]


def test_undefined_shows_its_reason(workdir):
    lost = ("auc", "balanced_accuracy", "specificity")
    missing = dict.fromkeys(f"{key}{end}" for key in lost for end in ("", "_ci"))
    reasons = {f"{key}_reason": "only one class present" for key in lost}
    found = evaluation(0.95, [0.9, 0.98], majority=1.0, n=624, positives=624, **missing, **reasons)
    put(workdir, "test", found, labels=(1, 1, 1))
    page = page_of(workdir)
    Outline(page)
    assert row(page, "AUC") == [[["undefined", "only", "one", "class", "present"]]]
    assert "undefined (only one class present). No curve: images of one class only." in page
    assert "Not shown to be better than always answering pneumonia." in page
    assert not re.search(r"\b(nan|None|null)\b", page.partition("</style>")[2].partition("<details>")[0])


def test_accuracy_without_interval_proves_nothing(workdir):
    put(workdir, "test", evaluation(0.99, None, accuracy_ci_reason="too few cases"))
    page = page_of(workdir)
    assert "Not shown to be better" in page and "is undefined: too few cases." in page


def test_both_operating_points_are_told_beside_each_other(workdir):
    """A reader who must not miss pneumonia looks for other figures than one who weighs both mistakes alike."""
    second = {
        "threshold_sens95": 0.125, "balanced_accuracy_at_sens95": 0.775, "sensitivity_at_sens95": 0.95,
        "sensitivity_at_sens95_ci": [0.9, 0.97], "specificity_at_sens95": 0.6, "accuracy_at_sens95": 0.8,
        "sensitivity_at_0.5": 0.925, "specificity_at_0.5": 0.7,
    }  # fmt: skip
    put(workdir, "val", evaluation(0.9, [0.87, 0.92], **second))
    put(workdir, "test", evaluation(0.9, [0.87, 0.92]))  # of an earlier version
    page = page_of(workdir)
    # Test comes first; the groups of rows are at the stored threshold, at 95 % sensitivity and at 0.5.
    assert row(page, "Threshold") == [[["0.400"], ["0.400"]], [["–"], ["0.125"]]]
    at_stored, at_sens95, at_half = row(page, "Sensitivity")
    assert at_stored == [["0.900", "0.870–0.930"]] * 2
    assert at_half == [["–"], ["0.925"]]
    assert at_sens95 == [["–"], ["0.950", "0.900–0.970"]]
    assert row(page, "Specificity")[1] == [["–"], ["0.600"]]
    assert row(page, "Balanced accuracy")[1] == [["–"], ["0.775"]]
    assert row(page, "Accuracy")[1] == [["–"], ["0.800"]]


def test_calibration_is_told_before_and_after(workdir):
    """Per split: a reliability diagram, and what temperature and offset did to the error."""
    fitted = {
        "temperature": 1.5, "offset": -0.25, "prevalence": 0.625, "ece": 0.021, "ece_ci": [0.018, 0.045],
        "ece_uncalibrated": 0.094, "brier": 0.062, "brier_uncalibrated": 0.081,
    }  # fmt: skip
    put(workdir, "val", evaluation(0.9, [0.87, 0.92], **fitted))
    put(workdir, "test", evaluation(0.9, [0.87, 0.92], **fitted | {"ece_uncalibrated": 0.03}))
    put(workdir, "elsewhere-test", evaluation(0.9, [0.87, 0.92], **fitted))
    page = page_of(workdir)
    shown = page[page.index("<h2>Calibration") : page.index("<h2>Confusion matrices")]
    assert re.findall(r"<figcaption>(.*?)</figcaption>", shown) == [
        f"<b>{split}</b>: ECE {before} before the temperature 1.500 and the offset -0.250,"
        " 0.021 (95 % interval 0.018–0.045) after."
        for split, before in (("test", "0.030"), ("val", "0.094"))
    ]
    assert row(page, "Temperature")[0] == [["1.500"], ["1.500"]]
    assert row(page, "Prevalence they hold for")[0] == [["0.625"], ["0.625"]]
    assert row(page, r"Calibration error \(ECE\)")[0] == [["0.021", "0.018–0.045"]] * 2
    assert row(page, r"Calibration error \(ECE\), uncalibrated")[0] == [["0.030"], ["0.094"]]
    assert row(page, "Brier score, uncalibrated")[0] == [["0.081"], ["0.081"]]
    (workdir / "evaluation" / "test.csv").unlink()
    shown = page_of(workdir).partition("<h2>Calibration")[2].partition("<h2>Confusion matrices")[0]
    assert shown.count("<svg") == 1, "no diagram without probabilities"


def test_run_without_evaluation_metrics_or_samples(workdir):
    page = page_of(workdir, samples=[])
    assert "has not been evaluated yet" in page and "Confusion" not in page and "Samples" not in page
    assert Outline(page).tags.count("svg") == 3
    (workdir / "metrics.jsonl").unlink()
    assert Outline(page_of(workdir, samples=[])).tags.count("svg") == 0


def test_evaluation_without_probabilities_says_so(workdir):
    put(workdir, "test", evaluation(0.9, [0.87, 0.92]))
    (workdir / "evaluation" / "test.csv").unlink()
    assert "No curve: no probabilities recorded." in page_of(workdir)


def test_other_sources_have_their_own_table(workdir):
    put(workdir, "val", evaluation(0.9, [0.87, 0.92]))
    put(workdir, "rsna-small-test", evaluation(0.511, [0.5, 0.52]))
    page = page_of(workdir)
    own, rest = page.split("<h2>Other data")
    other, rest = rest.split("<h2>Training")
    assert "Verdict on val" in own and "rsna" not in own
    assert row(own, "Accuracy")[0] == [["0.900", "0.870–0.920"]]
    assert '<th scope="col">rsna-small-test</th>' in other
    assert row(other, "Accuracy")[0] == [["0.511", "0.500–0.520"]]
    assert "rsna" not in rest


def test_history_takes_an_epochs_last_line_and_skips_half_a_line(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 30, "epoch": 3, "split": "val", "bce": 0.123, "accuracy": 0.5}) + "\n")
        file.write('{"step": 40, "epoch": 4, "spl')
    page = page_of(workdir)
    assert "val 0.123 at epoch 3" in page and "val 0.500 at epoch 3" in page
    assert "val 0.800 at epoch 2" in page  # the last line has no AUC


def test_equal_runs_give_equal_bytes(workdir):
    put(workdir, "test", evaluation(0.9, [0.87, 0.92]), labels=(0, 1) * 20)
    first = page_of(workdir)
    put(workdir, "test", evaluation(0.9, [0.87, 0.92]), labels=(0, 1) * 20)
    assert page_of(workdir) == first
    assert str(workdir) not in first


def test_roc_counts_ties_as_one_step_and_the_band_holds_the_curve():
    labels = np.array([0, 1, 0, 1, 1])
    probabilities = np.array([0.1, 0.5, 0.5, 0.5, 0.9])
    # By hand: above 0.9 lies 1 of 3 positives; at 0.5 two positives and one of two normals together.
    np.testing.assert_allclose(figures.roc(labels, probabilities), [[0, 0, 0.5, 1], [0, 1 / 3, 1, 1]])
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    probabilities = 1 / (1 + np.exp(-rng.normal(labels * 1.5)))
    grid = np.linspace(0, 1, 11)
    low, high = figures.roc_band(labels, probabilities, grid)
    curve = np.interp(grid, *figures.roc(labels, probabilities))
    assert np.all(low <= curve) and np.all(curve <= high)
    assert 0.05 < (high - low)[2] < 0.4


def paths(figure, style):
    """The points, (n, 2), of each path of the drawing whose style matches; figures lie along y downwards."""
    drawn = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', figure)
    numbers = (re.findall(r"-?\d+\.?\d*", path) for path, found in drawn if re.search(style, found))
    return [np.array(each, float).reshape(-1, 2) for each in numbers]


def test_the_reliability_diagram_by_hand():
    """A dot for each bin that has images, at its mean probability and share of pneumonia, in Wilson's interval."""
    labels = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 0])
    probabilities = np.array([0.07, 0.1, 0.51, 0.5, 0.49, 0.95, 0.94, 0.96, 0.97, 0.98])
    figure = figures.reliability("test & more", labels, probabilities, "ECE 0.1 < 0.2.")
    Outline(figure)
    assert "<b>test &amp; more</b>: ECE 0.1 &lt; 0.2.</figcaption>" in figure
    [(origin, end)] = paths(figure, "stroke-dasharray")  # of a perfect calibration, from (0, 0) to (1, 1)
    bins = [(0.085, 0, 2), (0.5, 2, 3), (0.96, 3, 5)]  # mean probability, pneumonia, images
    bars, dots = (
        [(path - origin) / (end - origin) for path in paths(figure.partition("legend_1")[0], style)]
        for style in ("var\\(--blue\\); stroke-opacity", "fill: var\\(--blue\\)")
    )
    for (mean, positives, count), bar, dot in zip(bins, bars, dots, strict=True):
        np.testing.assert_allclose(bar[:, 0], mean, atol=1e-3)
        np.testing.assert_allclose(bar[:, 1], metrics.wilson(positives, count), atol=1e-3)
        np.testing.assert_allclose((dot.min(0) + dot.max(0)) / 2, [mean, positives / count], atol=1e-3)
    widths = [np.ptp(dot[:, 0]) for dot in dots]
    assert widths[0] < widths[1] < widths[2], "the more images, the larger"


def test_accuracy_curves_by_hand():
    """Each recipe's mean over runs by epoch, in its own look, above or below what the larger class scores."""
    lines = {"paper": np.array([[0.5, 0.6, 0.7], [0.7, 0.8, 1.0]]), "other<x": np.array([[0.6, 0.5]])}
    figure = figures.accuracy_curves("m1", lines, 0.625)
    Outline(figure)
    told = "paper 0.850 at epoch 3; other&lt;x 0.500 at epoch 2; always the larger class 0.625."
    assert f"<figcaption>M1: mean over runs, between the least and the most; {told}</figcaption>" in figure
    assert re.search(rf'aria-label="Val accuracy by epoch[^"]*{re.escape(told)}"', figure)
    axes = figure.partition("legend_1")[0]
    [paper], [other] = (paths(axes, rf"stroke: var\(--{name}\); stroke-width: 1.6") for name in ("blue", "orange"))
    [majority] = paths(axes, "stroke-dasharray")
    first, step = paper[0, 0], paper[1, 0] - paper[0, 0]
    np.testing.assert_allclose((paper[:, 0] - first) / step, [0, 1, 2], atol=1e-3)
    np.testing.assert_allclose((other[:, 0] - first) / step, [0, 1], atol=1e-3)
    unit = (paper[2, 1] - paper[0, 1]) / 0.25  # 0.6 to 0.85
    for line, heights in ((paper, [0.6, 0.7, 0.85]), (other, [0.6, 0.5]), (majority, [0.625, 0.625])):
        np.testing.assert_allclose(0.6 + (line[:, 1] - paper[0, 1]) / unit, heights, atol=1e-3)


def test_every_recipe_of_a_figure_has_a_look_of_its_own():
    """By colour and dashes, since the page has two colours that are told apart on any screen."""
    lines = {f"r{i}": np.array([[0.5 + i / 20, 0.6]]) for i in range(9)}
    legend = figures.accuracy_curves("m2", lines, 0.625).partition("legend_1")[2]
    looks = re.findall(r'style="fill: none;([^"]*)stroke-width: 1.6', legend)
    assert len(looks) == len(set(looks)) == 9


def test_it_tells_what_the_data_are_and_what_was_found_in_them(workdir):
    rows = ["a,0,train", "b,1,train", "c,1,train", "d,0,val", f"{HOSTILE},1,"]
    (workdir / "splits.csv").write_text("\n".join(["id,label,split", *rows]) + "\n")
    (workdir / "remarks.txt").write_text(f"2 groups (4 images) identical.\n{HOSTILE}\n")
    page = page_of(workdir)
    data = page[page.index("<h2>Data") : page.index("<h2>Layers")]
    assert row(data, "train")[0][:4] == [["3"], ["1"], ["2"], ["0.667", "always", "answering", "pneumonia"]]
    assert row(data, "val")[0][3] == ["1.000", "always", "answering", "normal"]
    assert "2 groups (4 images) identical." in data and HOSTILE not in page
    assert "whole audit" not in data
    finding = {"kind": "truncated", "short": "7 images cut short"}
    (workdir / "audit").mkdir()
    (workdir / "audit" / "audit.json").write_text(json.dumps({"findings": [finding], "splits": {"all": {"n": 9}}}))
    assert 'Audit: 9 images; 7 images cut short. <a href="../audit/index.html"' in page_of(workdir)


def test_it_names_the_machine(workdir):
    assert '"cores": ' in html.unescape(page_of(workdir)) and '"cpu": ' in html.unescape(page_of(workdir))
