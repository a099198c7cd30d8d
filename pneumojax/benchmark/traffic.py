"""How many parameters a model has, and how many bytes its steps move, counted on paper as fused.py computes.

Counted is every array that one operation hands to another, once for each time that it is written or read in whole. What
stays within an operation (on a CPU the gradient of a convolution's output, for one) is not, nor are sums by channel,
seeds of dropout and the head's 128 units. A cache that still holds what the operation before it wrote saves some of it.
"""

from pneumojax.benchmark.flops import Shape, features, pooled, shapes
from pneumojax.family import HEAD_UNITS


def parameters(model: str, image_size: int) -> tuple[int, int]:
    """(trainable, other): `other` are batch normalization's running statistics."""
    blocks = shapes(model, image_size)
    filters = sum(block.filters for block in blocks)
    kernels = sum(3 * 3 * block.channels * block.filters for block in blocks)
    head = (features(model, image_size) + 1) * HEAD_UNITS + HEAD_UNITS + 1
    return kernels + 3 * filters + head, 2 * filters  # bias, scale, offset; mean and variance


def block_inference(shape: Shape) -> int:
    """Values that a block moves for an image: its input x is read, its output y written."""
    x, _, y = _sizes(shape)
    return x + y


def block_training(shape: Shape) -> int:
    """Values that a block moves for an image in a training step.

    Forward, x is read and the activations a are written, with the extremes that max-pool will choose (as many as y);
    these are read, and y is written. Backward, the gradient of y and the extremes are read for sums; then x, a and the
    gradient of y again, and the gradient of x is written. The first block, of one channel, keeps no a and has no
    gradient of x.
    """
    x, a, y = _sizes(shape)
    if shape.channels == 1:
        a = of_x = 0
    else:
        of_x = x
    forward = x + a + 3 * y
    backward = x + a + 3 * y + of_x
    return forward + backward


def _sizes(shape: Shape) -> tuple[int, int, int]:
    """How many values an image has in x, a and y."""
    pixels = shape.side**2
    return pixels * shape.channels, pixels * shape.filters, pooled(shape.side) ** 2 * shape.filters


def image_bytes(model: str, image_size: int, *, train: bool, value_bytes: int = 4) -> int:
    """Bytes that each image moves: of uint8 pixels, read, and of values of `value_bytes` each.

    The pixels are written as values before the first block. The head reads the last block's output; in training it does
    so again for the gradient of its weights, and writes the gradient of that output.
    """
    block = block_training if train else block_inference
    values = image_size**2 + sum(map(block, shapes(model, image_size)))
    values += features(model, image_size) * (3 if train else 1)
    return image_size**2 + value_bytes * values


def step_bytes(model: str, image_size: int, *, train: bool) -> int:
    """Bytes that a step moves whatever its batch: trainable parameters and what goes with them, float32.

    Inference reads each parameter. Training reads it forward and backward and writes its gradient; Adam reads gradient,
    parameter and both moments, and writes parameter and moments: ten in all.
    """
    trainable, _ = parameters(model, image_size)
    return 4 * trainable * (10 if train else 1)


def all_reduces(model: str, image_size: int) -> int:
    """How many a step over several devices takes, one after another.

    Each block has one of its batch's statistics and one of the sums in their gradient; all other gradients go together.
    """
    return 2 * len(shapes(model, image_size)) + 1


def ring_bytes(model: str, image_size: int, devices: int) -> float:
    """Bytes that each device sends in a step, by rings: of gradients and of batch normalization's statistics, float32.

    In a ring each device sends its share of the array 2 (devices - 1) times: to sum it, then to tell the sum.
    """
    return 2 * (devices - 1) / devices * 4 * sum(parameters(model, image_size))
