"""What has moved at a site from one month to another."""

import json

import numpy as np
import pytest

from pneumojax.data.sources import phantom
from pneumojax.evaluation import film_statistics, neighbours, site_state
from pneumojax.evaluation.guard import guarded


def drawn(first, count):
    return np.stack([phantom.render(1, first + number, number % 2, 48)[0] for number in range(count)])


@pytest.fixture(scope="module")
def index():
    features = np.abs(np.random.default_rng(0).normal(size=(80, 6))).astype(np.float32)
    plain = neighbours.build(np.arange(80).astype(str), np.zeros(80, np.uint8), features, features[:40])
    statistics = film_statistics.of(drawn(0, 80))
    return guarded(plain, statistics, statistics[:40], features[:40], statistics[:20] + 1)._replace(
        val_scores=np.linspace(0, 1, 40).astype(np.float32)
    )


def month(index, images, seed, unlike=1, shift=0.0):
    rng = np.random.default_rng(seed)
    logits, scores = rng.normal(shift, 1, len(images)), rng.uniform(0, 1, len(images))
    return site_state.state(index, logits, scores, unlike, film_statistics.of(images))


def moved(before, after):
    return {change.name for change in site_state.changes(before, after) if change.moved}


def test_two_samples_of_one_site_have_not_moved(index):
    assert moved(month(index, drawn(100, 100), 1), month(index, drawn(300, 60), 2)) == set()


def test_a_state_is_not_other_than_itself(index):
    state = month(index, drawn(100, 50), 1)
    assert {change.p for change in site_state.changes(state, state)} == {1.0}


def test_what_moved_is_named(index):
    """Films of the second month are brighter, score higher, and more of them are unlike training."""
    before = month(index, drawn(100, 100), 1)
    bright = np.clip(drawn(300, 100) * 1.3 + 30, 0, 255).astype(np.uint8)
    after = month(index, bright, 2, unlike=40, shift=1.5)
    assert {"brightness", "logits", "films unlike training"} <= moved(before, after)
    assert "out-of-distribution scores" not in moved(before, after)


def test_a_state_says_how_far_training_is(index):
    state = month(index, drawn(100, 50), 1, unlike=5)
    assert state["unlike_training"]["share"] == 0.1
    assert state["unlike_training"]["ci"][0] < 0.1 < state["unlike_training"]["ci"][1]
    assert state["farther_than_val"]["share"] == pytest.approx(0.5, abs=0.15)
    brightness = state["statistics"]["brightness"]
    assert brightness["training_mean"] == pytest.approx(drawn(0, 80).mean() / 255, rel=1e-3)
    own = (drawn(0, 80) / 255).mean((1, 2)).std()
    assert brightness["training_sd"] == pytest.approx(own, rel=0.5)


def test_many_films_are_kept_as_quantiles(index):
    state = month(index, np.repeat(drawn(100, 1), 500, 0), 3)
    assert len(state["logits"]) < 500
    assert state["logits"] == sorted(state["logits"])
    assert site_state.checked(json.loads(json.dumps(state))) == state


@pytest.mark.parametrize("change", [{"films": 0}, {"films": "5"}, {"logits": []}, {"logits": [float("nan")]}])
def test_other_contents_are_refused(index, change):
    with pytest.raises((TypeError, ValueError)):
        site_state.checked(month(index, drawn(100, 5), 1) | change)
