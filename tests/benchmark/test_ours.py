"""The product's steps as they are measured: each runs, and trains where it says so."""

import pytest

from pneumojax.benchmark import flops, ours
from pneumojax.benchmark.measure import figures
from pneumojax.benchmark.task import AUGMENTED, FED, FEED, INFER, RESIDENT, TRAIN, Task
from pneumojax.benchmark.worker import repeat


@pytest.mark.parametrize("mode", [TRAIN, AUGMENTED, INFER, FEED, FED, RESIDENT])
def test_every_mode_runs_on_as_many_devices_as_it_says(config, tmp_path, mode):
    config.data.cache_dir = str(tmp_path)
    [build] = ours.ways("")(Task("m1", mode, 4, 16, "float32", 2), config).values()
    prepared = build()
    assert len(repeat(prepared, 0, 3)) == 3
    assert ("compile_s" in prepared.facts) == (mode != FEED)
    assert prepared.facts["platform"] == "cpu"
    assert prepared.peak_bytes() > 1e6


def test_the_step_beside_peers_has_no_augmentation(config):
    task = Task("m1", TRAIN, 4, 16, "float32", 1)
    assert set(ours.settings(config, task).augment.values()) == {0.0}
    assert ours.settings(config, task._replace(mode=AUGMENTED)).augment.to_dict() == config.augment.to_dict()


def test_figures_by_hand():
    """Ten steps of 1 s and one of 12 s: 2 s each on the whole, 1 s at the median."""
    steps = [1.0] * 10 + [12.0]
    train = figures(Task("m1", TRAIN, 8, 150, "float32", 1), steps)
    assert train["step_s"] == {"median": 1.0, "p10": 1.0, "p90": 1.0}
    assert (train["calls"], train["images_per_s"]) == (11, 8.0)
    assert train["gflops"] == pytest.approx(3 * flops.forward("m1", 150) * 8 / 1e9)
    fed = figures(Task("m1", FED, 8, 150, "float32", 1), steps)
    assert (fed["images_per_s"], fed["gflops"]) == (4.0, pytest.approx(train["gflops"] / 2))
    assert "gflops" not in figures(Task("m1", FEED, 8, 150, "float32", 1), steps)
