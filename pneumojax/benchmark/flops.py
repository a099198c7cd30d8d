"""How many floating-point operations an image takes, counted on paper."""

from pneumojax.family import FAMILY, HEAD_UNITS


def forward(model: str, image_size: int) -> int:
    """Operations of one image's way through the convolutions and dense layers; an addition and a product are two.

    What a padded border multiplies with zeros is counted, as is usual. Biases, activations, normalization and
    pooling are left out: they are some hundredths of it.
    """
    total, side, channels = 0, image_size, 1
    for block in FAMILY[model]:
        total += 2 * 3 * 3 * channels * block.filters * side * side
        side, channels = -(-side // 2), block.filters
    return total + 2 * side * side * channels * HEAD_UNITS + 2 * HEAD_UNITS


def training(model: str, image_size: int) -> int:
    """Three times the forward pass: the backward pass has two products, with weights and with inputs, for each."""
    return 3 * forward(model, image_size)
