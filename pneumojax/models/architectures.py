"""The CNN family as tables of blocks: M1, M2 and M3 (Huynh et al., Figs. 1, 4, 6).

To add a model, add its table to `FAMILY` and a config `configs/<name>.py` that names it.
"""

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
