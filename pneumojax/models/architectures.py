"""The CNN family as tables of blocks: M1, M2 and M3 (Huynh et al., Figs. 1, 4, 6).

To add a model, add its table to `FAMILY` and a config `configs/<name>.py` that names it. A network of your own needs
neither: the config field `model.blocks` holds its table.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """Convolution 3x3 -> ReLU -> dropout -> batch normalization -> max-pool 2x2.

    Attributes:
      filters: channels that the convolution makes. The CPU kernels need a multiple of 32; other numbers use XLA.
      dropout: rate, in [0, 1).
    """

    filters: int
    dropout: float


FAMILY: dict[str, tuple[Block, ...]] = {
    "m1": (Block(32, 0.0), Block(64, 0.1), Block(64, 0.0), Block(128, 0.2), Block(256, 0.2)),
    "m2": (Block(32, 0.0), Block(64, 0.0), Block(128, 0.2), Block(256, 0.2)),
    "m3": (Block(64, 0.0), Block(128, 0.1), Block(256, 0.2)),
}
HEAD_UNITS = 128
HEAD_DROPOUT = 0.2
_BLOCK = re.compile(r"\s*(\d{1,4})(?::(0?\.\d{1,4}|0))?\s*")
MAX_BLOCKS = 12  # a square of 4096 pixels is one after as many


def blocks_of(name: str, table: str) -> tuple[Block, ...]:
    """Return the blocks that `table` lists; where it is empty, those of `FAMILY`.

    A table is "filters:dropout" for each block, such as "32:0, 64:0.1, 128:0.2"; a dropout of 0 may be left out.

    Raises:
      KeyError: there is neither a table nor a model of this name.
      ValueError: it is no such table.
    """
    if not table:
        return FAMILY[name]
    found = [_BLOCK.fullmatch(part) for part in table.split(",")]
    if len(found) > MAX_BLOCKS or not all(match and int(match[1]) for match in found):
        raise ValueError(f"{table!r} is no table of at most {MAX_BLOCKS} blocks")
    return tuple(Block(int(match[1]), float(match[2] or 0)) for match in found if match)


def shapes_of(blocks: Sequence[Block], image_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter and statistic of the network, by names such as "params.conv_1.kernel".

    All are float32. Flax would have to trace the network for them, which takes a third of a second.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    channels, side = 1, image_size
    for number, block in enumerate(blocks, start=1):
        shapes[f"params.conv_{number}.kernel"] = (3, 3, channels, block.filters)
        channels, side = block.filters, -(-side // 2)
        names = ("params.conv_{}.bias", "params.batch_norm_{}.scale", "params.batch_norm_{}.bias")
        names += ("batch_stats.batch_norm_{}.mean", "batch_stats.batch_norm_{}.var")
        shapes |= {name.format(number): (channels,) for name in names}
    for number, (inputs, units) in enumerate(((side * side * channels, HEAD_UNITS), (HEAD_UNITS, 1)), start=1):
        shapes |= {f"params.dense_{number}.kernel": (inputs, units), f"params.dense_{number}.bias": (units,)}
    return shapes


def layers_of(blocks: Sequence[Block]) -> list[str]:
    """Return the names of the layers that have parameters, in order."""
    convolutions = [f"{kind}_{number}" for number in range(1, len(blocks) + 1) for kind in ("conv", "batch_norm")]
    return [*convolutions, "dense_1", "dense_2"]


def table_of(blocks: Iterable[Block]) -> str:
    """Return the table that `blocks_of` reads."""
    return ",".join(f"{block.filters}:{block.dropout:g}" for block in blocks)
