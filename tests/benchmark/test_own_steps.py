"""PneumoJAX's own steps run in every mode, with the settings of their task."""

import pytest

from pneumojax.benchmark import flops, own_steps
from pneumojax.benchmark.measure import figures
from pneumojax.benchmark.tasks import AUGMENTED, FED, FEED, INFER, OURS, RESIDENT, SIDES, TRAIN, Task
from pneumojax.benchmark.worker_client import started
from pneumojax.runtime.config import with_fields

SLOW = (TRAIN, AUGMENTED, FED)  # each compiles a training step, as `RESIDENT` does


@pytest.fixture(scope="module")
def two_devices():
    """A worker that has two simulated devices."""
    with started(SIDES[OURS], devices=2, platform="cpu") as worker:
        yield worker


@pytest.mark.parametrize("mode", [INFER, FEED, RESIDENT, *(pytest.param(m, marks=pytest.mark.slow) for m in SLOW)])
def test_every_mode_runs_on_two_devices(two_devices, config, tmp_path, mode):
    config = with_fields(config, {"data.cache_dir": str(tmp_path)})
    facts = two_devices.prepare(Task("m1", mode, 4, 16, "float32", 2), config.to_dict(), 0.01)["facts"]
    assert ("compile_s" in facts) == (mode != FEED)
    assert facts["platform"] == "cpu"
    measured = two_devices.measure(0, least=3)
    assert len(measured["steps"]) == 3
    assert measured["peak_bytes"] > 1e6


def test_only_the_step_compared_with_peers_has_no_augmentation(config):
    """Peers have none, so it would not be the same step; and the config that was passed in stays as it was."""
    before = config.to_dict()
    task = Task("m1", TRAIN, 4, 16, "float32", 1)
    assert set(own_steps.settings(config, task).augment.values()) == {0.0}
    assert own_steps.settings(config, task._replace(mode=AUGMENTED)).augment.to_dict() == config.augment.to_dict()
    assert config.to_dict() == before


def test_figures_by_hand():
    """Of ten steps of 1 s and one of 12 s, the mean is 2 s and the median 1 s. The mean counts if steps are fed."""
    steps = [1.0] * 10 + [12.0]
    train = figures(Task("m1", TRAIN, 8, 150, "float32", 1), steps)
    assert train["step_s"] == {"median": 1.0, "p10": 1.0, "p90": 1.0}
    assert (train["calls"], train["images_per_s"]) == (11, 8.0)
    assert train["gflops"] == pytest.approx(3 * flops.forward("m1", 150) * 8 / 1e9)
    fed = figures(Task("m1", FED, 8, 150, "float32", 1), steps)
    assert (fed["images_per_s"], fed["gflops"]) == (4.0, pytest.approx(train["gflops"] / 2))
    assert "gflops" not in figures(Task("m1", FEED, 8, 150, "float32", 1), steps)
