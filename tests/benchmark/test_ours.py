"""The product's steps as they are measured: each runs, and trains where it says so."""

import pytest

from pneumojax.benchmark import ours
from pneumojax.benchmark.task import AUGMENTED, FED, FEED, INFER, TRAIN, Task


@pytest.mark.parametrize("mode", [TRAIN, AUGMENTED, INFER, FEED, FED])
def test_every_mode_runs_on_as_many_devices_as_it_says(config, tmp_path, mode):
    config.data.cache_dir = str(tmp_path)
    [build] = ours.ways("")(Task("m1", mode, 4, 16, "float32", 2), config).values()
    prepared = build()
    for _ in range(3):
        prepared.step()
    assert ("compile_s" in prepared.facts) == (mode != FEED)


def test_the_step_beside_peers_has_no_augmentation(config):
    task = Task("m1", TRAIN, 4, 16, "float32", 1)
    assert set(ours.settings(config, task).augment.values()) == {0.0}
    assert ours.settings(config, task._replace(mode=AUGMENTED)).augment.to_dict() == config.augment.to_dict()
