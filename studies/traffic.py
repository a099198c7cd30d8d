"""Count a model's parameters and the bytes that its steps move, as models/block_fused.py computes them.

Counted is every array that one operation hands to another, each time that it is written or read in whole. Not counted
are arrays within an operation (such as, on a CPU, the gradient of a convolution's output), sums by channel, seeds of
dropout and the head's 128 units. A cache that still holds the previous operation's output saves some of these bytes.
"""

from pneumojax.benchmark.flops import Shape, features, pooled, shapes
from pneumojax.models.architectures import HEAD_UNITS


def parameters(model: str, image_size: int) -> tuple[int, int]:
    """Return (trainable, other), where `other` are batch normalization's running statistics."""
    blocks = shapes(model, image_size)
    filters = sum(block.filters for block in blocks)
    kernels = sum(3 * 3 * block.channels * block.filters for block in blocks)
    head = (features(model, image_size) + 1) * HEAD_UNITS + HEAD_UNITS + 1
    return kernels + 3 * filters + head, 2 * filters  # bias, scale, offset; mean and variance


def block_inference(shape: Shape) -> int:
    """Return the values that a block moves for an image: its input x is read, its output y written."""
    x, _, y = _sizes(shape)
    return x + y


def block_training(shape: Shape) -> int:
    """Return the values that a block moves for an image in a training step.

    Forward, x is read and the activations a are written, with the values that max-pool will choose (as many as y);
    these are read, and y is written. Backward, the gradient of y and the chosen values are read for sums; then x, a
    and the gradient of y again, and the gradient of x is written. The first block, of one channel, keeps no a and has
    no gradient of x.
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
    """Return how many values an image has in x, a and y."""
    pixels = shape.side**2
    return pixels * shape.channels, pixels * shape.filters, pooled(shape.side) ** 2 * shape.filters


def image_bytes(model: str, image_size: int, *, train: bool, value_bytes: int = 4) -> int:
    """Return the bytes that each image moves: its uint8 pixels, and values of `value_bytes` each.

    The pixels are read, and written as values before the first block. The head reads the last block's output; in
    training it reads it again for the gradient of its weights, and writes the gradient of that output.
    """
    block = block_training if train else block_inference
    values = image_size**2 + sum(map(block, shapes(model, image_size)))
    values += features(model, image_size) * (3 if train else 1)
    return image_size**2 + value_bytes * values


def step_bytes(model: str, image_size: int, *, train: bool) -> int:
    """Return the bytes that a step moves whatever its batch size: parameters and Adam's state, float32.

    Inference reads each parameter. Training reads it forward and backward and writes its gradient; Adam reads gradient,
    parameter and both moments, and writes parameter and moments: ten in all.
    """
    trainable, _ = parameters(model, image_size)
    return 4 * trainable * (10 if train else 1)


def all_reduces(model: str, image_size: int) -> int:
    """Return how many all-reduces a step over several devices makes, one after another.

    Each block has one for its batch's statistics and one for the sums in their gradient; all other gradients share one.
    """
    return 2 * len(shapes(model, image_size)) + 1


def ring_bytes(model: str, image_size: int, devices: int) -> float:
    """Return the bytes that each device sends in a step: gradients and batch normalization's statistics, float32.

    In a ring each device sends its share of the array 2 (devices - 1) times: first to sum it, then to spread the sum.
    """
    return 2 * (devices - 1) / devices * 4 * sum(parameters(model, image_size))
