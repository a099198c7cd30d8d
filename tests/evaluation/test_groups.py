"""Metrics of sites and subgroups: of the right images, the worst first, and none of too few images."""

import json

import numpy as np
import pytest
from scipy.special import expit

from pneumojax.evaluation import groups, metrics
from pneumojax.evaluation.calibration import Calibration

CALIBRATION = Calibration(temperature=2.0, threshold=0.4, threshold_sens95=0.3, prevalence=0.5, offset=0.1)


@pytest.fixture
def cases():
    """Columns, labels and logits of 400 images; those of the site "far" rank no better than chance."""
    rng = np.random.default_rng(0)
    labels, sites = rng.integers(0, 2, 400), np.repeat(["near", "far"], 200)
    logits = rng.normal(size=400) + np.where(sites == "near", 4 * labels - 2, 0)
    return {"site": sites, "age": np.array([str(20 + i % 60) for i in range(400)])}, labels, logits


def test_each_group_has_the_metrics_of_its_images(cases):
    columns, labels, logits = cases
    found = {(group["by"], group["group"]): group for group in groups.by_group(*cases, CALIBRATION)}
    assert set(found) == {("site", "near"), ("site", "far"), ("age", "18-39"), ("age", "40-59"), ("age", "60-79")}
    near, members = found["site", "near"], columns["site"] == "near"
    p = expit(logits[members] / 2 + 0.1)
    assert (near["n"], near["positives"]) == (200, labels[members].sum())
    assert near["auc"] == metrics.auc(labels[members], logits[members])
    assert near["auc_ci"] == list(metrics.auc_interval(labels[members], logits[members]))
    assert near["sensitivity"] == np.mean(p[labels[members] == 1] >= 0.4)
    assert near["specificity"] == np.mean(p[labels[members] == 0] < 0.4)
    assert near["ece"] == metrics.expected_calibration_error(labels[members], p)
    assert near["ece_ci"][0] <= near["ece"] <= near["ece_ci"][1]


def test_the_worst_group_comes_first(cases):
    found = groups.by_group(*cases, CALIBRATION)
    assert (found[0]["by"], found[0]["group"]) == ("site", "far")
    scores = [group["balanced_accuracy"] for group in found]
    assert scores == sorted(scores)
    assert groups.worst_site(found) is found[0]
    assert groups.worst_site(found[1:]) is None, "one site alone is not the worst"
    assert groups.worst_site([group for group in found if group["by"] == "age"]) is None


def test_a_metric_of_few_images_is_not_given():
    """Nine of nine right could be luck; the interval of a perfect score would look like knowledge."""
    labels = np.repeat([0, 1, 0, 1, 0], [30, 9, 9, 9, 30])
    sites = np.repeat(["many normal", "few", "normal"], [39, 18, 30])
    found = {group["group"]: group for group in groups.by_group({"site": sites}, labels, labels - 0.5, CALIBRATION)}
    many, few, normal = found["many normal"], found["few"], found["normal"]
    assert many["specificity"] is not None
    for name in ("auc", "balanced_accuracy", "ece", "sensitivity"):
        assert many[name] is many[f"{name}_ci"] is None
        assert many[f"{name}_reason"] == "fewer than 10 positives"
    assert few["auc_reason"] == "fewer than 10 positives and negatives"
    assert all(few[name] is None for name in groups.METRICS)
    assert normal["specificity_ci"] is not None and normal["auc"] is None
    assert groups.worst_site(found.values()) is None
    assert set(groups.too_small_sites(found.values())) == {"many normal", "few", "normal"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["PA"] * 40, set()),
        ([""] * 40, set()),
        (["PA"] * 20 + ["AP"] * 20, {"PA", "AP"}),
        (["PA"] * 20 + [""] * 20, {"PA", "unknown"}),
        ([str(i % 8) for i in range(40)], set("01234567")),
        ([str(i % 9) for i in range(40)], set()),
    ],
)
def test_a_column_of_few_values_makes_groups(values, expected):
    labels = np.arange(40) % 2
    found = groups.by_group({"view": np.array(values)}, labels, labels - 0.5, CALIBRATION)
    assert {group["group"] for group in found} == expected
    assert not found or sum(group["n"] for group in found) == 40


def test_a_site_without_a_column_is_no_further_group():
    """The children's folder has no CSV: "view unknown" would list the children again."""
    labels = np.arange(80) % 2
    sites, views = np.repeat(["adults", "children"], 40), np.array(["PA", "AP"] * 20 + [""] * 40)
    found = groups.by_group({"site": sites, "view": views}, labels, labels - 0.5, CALIBRATION)
    assert {(group["by"], group["group"]) for group in found} == {
        ("site", "adults"), ("site", "children"), ("view", "AP"), ("view", "PA")
    }  # fmt: skip
    pa = np.repeat(["PA", ""], 40)
    found = groups.by_group({"site": sites, "view": pa}, labels, labels - 0.5, CALIBRATION)
    assert {group["by"] for group in found} == {"site"}, "all adults are PA: the same images again"
    views[0] = ""
    found = groups.by_group({"site": sites, "view": views}, labels, labels - 0.5, CALIBRATION)
    assert ("view", "unknown") in {(group["by"], group["group"]) for group in found}


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("0", "0-17"), ("17", "0-17"), ("17.9", "0-17"), ("18", "18-39"), ("039Y", "18-39"), ("40", "40-59"),
        ("79y", "60-79"), ("080Y", "80+"), ("102", "80+"), ("11M", "0-17"), ("006 Months", "0-17"), ("12 D", "0-17"),
        ("", ""), ("adult", ""), ("-3", ""), ("nan", ""), ("1e9", ""), ("58Z", ""),
    ],
)  # fmt: skip
def test_ages_are_put_into_bands(age, band):
    assert groups.band(age) == band


def test_groups_are_json_and_read_again(cases):
    found = groups.by_group(*cases, CALIBRATION)
    again = json.loads(json.dumps(found, allow_nan=False))
    assert groups.checked(again) == again == found


@pytest.mark.parametrize(
    "change",
    [{"n": "3"}, {"by": 1}, {"auc": "0.5"}, {"auc": float("nan")}, {"auc_ci": [0.1]}, {"auc_ci": 0.1}, {"group": None}],
)
def test_damaged_groups_are_refused(cases, change):
    [first, *rest] = groups.by_group(*cases, CALIBRATION)
    with pytest.raises((TypeError, ValueError)):
        groups.checked([first | change, *rest])
    with pytest.raises((KeyError, TypeError)):
        groups.checked([{name: value for name, value in first.items() if name != "ece"}])
    with pytest.raises(TypeError):
        groups.checked(3)


def test_a_row_has_each_metric_with_its_interval(cases):
    [first, *_] = groups.by_group(*cases, CALIBRATION)
    [row, small] = groups.rows([first, first | {"auc": None, "auc_ci": None}])
    assert len(row) == len(groups.HEADER) and row[:2] == ("site far", "200")
    low, high = first["auc_ci"]
    assert row[3] == f"{first['auc']:.3f} ({low:.3f}-{high:.3f})" and small[3] == "-"
