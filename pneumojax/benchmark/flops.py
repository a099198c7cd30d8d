"""Count the floating-point operations that an image takes, from the shapes of the layers."""

from typing import NamedTuple

from pneumojax.models.architectures import FAMILY, HEAD_UNITS


class Shape(NamedTuple):
    """The shape of a block's convolution."""

    side: int  # px; height and width of its input and output
    channels: int  # of its input
    filters: int  # channels of its output


def shapes(model: str, image_size: int) -> list[Shape]:
    """Return the shape of each block's convolution."""
    found, side, channels = [], image_size, 1
    for block in FAMILY[model]:
        found.append(Shape(side, channels, block.filters))
        side, channels = pooled(side), block.filters
    return found


def pooled(side: int) -> int:
    """Return the side after a block's max-pool."""
    return -(-side // 2)


def features(model: str, image_size: int) -> int:
    """Return how many values the last block gives to the first dense layer."""
    last = shapes(model, image_size)[-1]
    return pooled(last.side) ** 2 * last.filters


def forward(model: str, image_size: int) -> int:
    """Count the operations of one image's forward pass; a multiplication and an addition are two.

    Products with the zeros of the padding count, as is usual. Biases, activations, normalization and pooling do not:
    they are a few percent.
    """
    blocks = sum(2 * 3 * 3 * channels * filters * side**2 for side, channels, filters in shapes(model, image_size))
    return blocks + 2 * features(model, image_size) * HEAD_UNITS + 2 * HEAD_UNITS


def training(model: str, image_size: int) -> int:
    """Count the operations of one image's training step: three times the forward pass.

    For each product of the forward pass, the backward pass has two: one for the weights and one for the inputs. The
    first block needs no gradient of its input, but computes its convolution a second time.
    """
    return 3 * forward(model, image_size)
