"""Operating points by the worst group."""

import numpy as np
import pytest
from etils import epath

from pneumojax.evaluation import metrics, operating_points
from pneumojax.evaluation.calibration import Calibration, fit

LABELS = np.repeat([0, 1], 50)


def cases(seed, shift=0.0):
    """Logits of two classes, 3 apart."""
    return LABELS, np.random.default_rng(seed).normal(LABELS * 3.0 + shift, 1.0)


@pytest.fixture(scope="module")
def chosen():
    """A site, and the same site whose films score higher by 2."""
    home = cases(0)
    return operating_points.choose({"clean": home, "bright": cases(1, 2.0)}, home, fit(*home))


def test_the_threshold_lies_between_those_of_the_groups(chosen):
    """At the site's own threshold, most normals of the other group are positive."""
    (worst, before, after), *_ = chosen.groups
    assert worst in ("clean", "bright")
    low = min(before for _, before, _ in chosen.groups)
    assert min(after for _, _, after in chosen.groups) > low + 0.05
    assert after == min(after for _, _, after in chosen.groups)


def test_the_price_at_home_is_what_home_loses(chosen):
    before, after = chosen.home["balanced_accuracy"]
    assert before > after
    p = metrics.probabilities(cases(0)[1], chosen.calibration.temperature, chosen.calibration.offset)
    reached = p >= chosen.calibration.threshold
    assert chosen.home["sensitivity"][1] == pytest.approx(reached[LABELS == 1].mean())
    assert chosen.home["specificity"][1] == pytest.approx((~reached[LABELS == 0]).mean())


def test_no_other_threshold_is_better_in_the_worst_group(chosen):
    def worst(threshold):
        rates = []
        for labels, logits in (cases(0), cases(1, 2.0)):
            p = metrics.probabilities(logits, chosen.calibration.temperature, chosen.calibration.offset)
            reached = p >= threshold
            rates.append((reached[labels == 1].mean() + (~reached[labels == 0]).mean()) / 2)
        return min(rates)

    best = max(worst(threshold) for threshold in np.linspace(0, 1, 60))
    assert worst(chosen.calibration.threshold) >= best - 1e-9


def test_the_sensitive_threshold_finds_enough_in_every_group(chosen):
    calibration = chosen.calibration
    assert calibration.threshold_sens95 <= calibration.threshold
    for labels, logits in (cases(0), cases(1, 2.0)):
        p = metrics.probabilities(logits, calibration.temperature, calibration.offset)
        assert (p >= calibration.threshold_sens95)[labels == 1].mean() >= 0.95


def test_small_groups_decide_nothing():
    home = cases(0)
    few = np.r_[0:5, 50:55]
    small = {"few": (LABELS[few], cases(1, 9.0)[1][few])}
    with_it, without = (
        operating_points.choose({"clean": home} | more, home, fit(*home)).calibration for more in (small, {})
    )
    assert with_it == without
    with pytest.raises(metrics.Undefined, match="enough images"):
        operating_points.choose(small, home, fit(*home))


def test_a_file_is_of_one_epoch(chosen, tmp_path):
    workdir = epath.Path(tmp_path)
    assert operating_points.read(workdir, 3) is None
    operating_points.write(workdir, 3, chosen)
    found = operating_points.read(workdir, 3)
    assert found == chosen
    assert operating_points.read(workdir, 4) is None
    for damaged in ("{}", "3"):
        text = f'{{"run": "", "epoch": 3, "calibration": {damaged}, "of_val": {damaged}}}'
        (tmp_path / "operating_points.json").write_text(text)
        assert operating_points.read(workdir, 3) is None


def test_calibrations_out_of_range_are_refused():
    from pneumojax.evaluation.calibration import checked

    fine = Calibration(1.0, 0.5, 0.5, 0.5, 0.0)._asdict()
    assert checked(fine) == Calibration(1.0, 0.5, 0.5, 0.5, 0.0)
    for change in ({"temperature": 0}, {"threshold": 2}, {"offset": float("nan")}, {"more": 1}):
        with pytest.raises((TypeError, ValueError)):
            checked(fine | change)


def test_the_prevalence_is_that_of_what_the_probabilities_were_fitted_on():
    """Groups weigh the same: their mean probability is their share of pneumonia, whatever val's is."""
    rng = np.random.default_rng(4)
    groups = {}
    for name, normal, ill in (("large", 200, 1800), ("small", 180, 20)):
        labels = np.repeat([0, 1], [normal, ill])
        groups[name] = labels, rng.normal(labels * 3.0, 1.5)
    home = tuple(np.concatenate(part) for part in zip(*groups.values(), strict=True))
    calibration = operating_points.choose(groups, home, fit(*home)).calibration
    means = [metrics.probabilities(z, calibration.temperature, calibration.offset).mean() for _, z in groups.values()]
    assert calibration.prevalence == pytest.approx(0.5)
    assert np.mean(means) == pytest.approx(0.5, abs=0.03)
