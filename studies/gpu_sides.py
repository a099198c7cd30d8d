"""PneumoJAX's own steps as gpu.py measures them: with the block that it names, and on a split of random images."""

from collections.abc import Callable
from functools import partial

import numpy as np
from ml_collections import ConfigDict

from pneumojax.benchmark import own_steps
from pneumojax.benchmark.tasks import COPY, FED, MATMUL, RESIDENT, Task
from pneumojax.benchmark.worker import ReadyStep, Ways
from pneumojax.data.source import Split
from pneumojax.runtime.config import with_fields
from studies.gpu_given import TINY, WHOLE, Sizes

FUSED = {"fused": "always", "plain": "never", "": "auto"}


def ways(variant: str) -> Callable[[Task, ConfigDict], Ways]:
    """Return the function that maps a task to its only way.

    The variant is "whole" or "tiny", the sizes; with "-fused" or "-plain", that block.
    """
    size, _, block = variant.partition("-")
    sizes = {"whole": WHOLE, "tiny": TINY}[size]
    builders: dict[str, Callable[[Task, ConfigDict], ReadyStep]] = {
        MATMUL: partial(own_steps.matmul, size=sizes.matrix),
        COPY: partial(own_steps.copy, size=sizes.copy_bytes),
        RESIDENT: partial(_dispatched, sizes),
        FED: partial(_dispatched, sizes),
    }
    others = own_steps.ways("")

    def ways_of(task: Task, config: ConfigDict) -> Ways:
        config = with_fields(config, {"model.fused": FUSED[block]})
        if task.mode in builders:
            return {"": partial(own_steps.built, builders[task.mode], task, config)}
        return others(task, config)

    return ways_of


def _dispatched(sizes: Sizes, task: Task, config: ConfigDict) -> ReadyStep:
    most = max(1, sizes.split_images // task.batch_size)  # a dispatch of large batches would take seconds
    return own_steps.dispatched(task, config, random_split(sizes.split_images, task.image_size), most)


def random_split(count: int, size: int) -> Split:
    """Return a split of noise in memory."""
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)
    numbers = np.arange(count)
    return Split("train", numbers.astype(str), (numbers % 2).astype(np.uint8), images.__getitem__)
