"""The choice between the two ways to compute a block: fused (block_fused.py), or as it is defined (block_reference.py).

Both compute the same, to rounding. The choice is made where the computation is traced.
"""

from typing import NamedTuple

import jax

from pneumojax.models import block_fused, block_reference
from pneumojax.models.block_operations import Images, Pooled
from pneumojax.models.block_reference import Dropout, Parameters, Statistics

AUTO, ALWAYS, NEVER = "auto", "always", "never"  # the values of the config's `model.fused`


class Fused(NamedTuple):
    """Whether the fused block is the faster one: in training, and in inference."""

    train: bool
    infer: bool


# On CPUs it is: see docs/benchmarks/speed.md. On GPUs neither way has been measured yet: `make gpu` compares them, and
# prints the line that belongs here.
ON_GPU = Fused(train=True, infer=True)
ELSEWHERE = Fused(train=True, infer=True)


def is_fused(fused: str, *, train: bool) -> bool:
    """Tell whether a block is computed fused: as `fused` says, or, where that is `AUTO`, if it is faster here."""
    if fused != AUTO:
        return fused == ALWAYS
    faster = ON_GPU if jax.default_backend() == "gpu" else ELSEWHERE
    return faster.train if train else faster.infer


def block_train(fused: str, x: Images, parameters: Parameters, dropped: Dropout) -> tuple[Pooled, Statistics]:
    """Compute the block's output with the batch's own statistics, and those statistics."""
    if is_fused(fused, train=True):
        return block_fused.block_train(x, parameters, dropped.seeds, dropped.rate)
    outputs, statistics = block_reference.block_reference(x, parameters, dropped, None)
    return outputs["max_pool"], statistics


def block_infer(fused: str, x: Images, parameters: Parameters, statistics: Statistics) -> Pooled:
    """Compute the block's output, normalized by `statistics`, without dropout."""
    if is_fused(fused, train=False):
        return block_fused.block_infer(x, parameters, statistics)
    return block_reference.block_reference(x, parameters, block_reference.NOTHING_DROPPED, statistics)[0]["max_pool"]
