"""How many floating-point operations an image takes, counted on paper."""

from typing import NamedTuple

from pneumojax.family import FAMILY, HEAD_UNITS


class Shape(NamedTuple):
    """Of a block's convolution: `side` x `side` pixels, `channels` that come in, `filters` that go out."""

    side: int
    channels: int
    filters: int


def shapes(model: str, image_size: int) -> list[Shape]:
    """Each block's."""
    found, side, channels = [], image_size, 1
    for block in FAMILY[model]:
        found.append(Shape(side, channels, block.filters))
        side, channels = pooled(side), block.filters
    return found


def pooled(side: int) -> int:
    """The side after a block's max-pool."""
    return -(-side // 2)


def features(model: str, image_size: int) -> int:
    """How many values the last block hands to the first dense layer."""
    last = shapes(model, image_size)[-1]
    return pooled(last.side) ** 2 * last.filters


def forward(model: str, image_size: int) -> int:
    """Operations of one image's way through the convolutions and dense layers; an addition and a product are two.

    What a padded border multiplies with zeros is counted, as is usual. Biases, activations, normalization and
    pooling are left out: they are some hundredths of it.
    """
    blocks = sum(2 * 3 * 3 * channels * filters * side**2 for side, channels, filters in shapes(model, image_size))
    return blocks + 2 * features(model, image_size) * HEAD_UNITS + 2 * HEAD_UNITS


def training(model: str, image_size: int) -> int:
    """Three times the forward pass: the backward pass has two products, with weights and with inputs, for each.

    The first block needs no gradient of its input, but its convolution a second time: three as well.
    """
    return 3 * forward(model, image_size)
