"""Attribution maps of a model's logit: pure functions of the model, its variables and images.

A map is positive where the image is evidence for pneumonia and negative where it is evidence against it, in units that
each function names. Images are in [0, 1], and the model is in inference mode, with `variables`, its
`{"params": ..., "batch_stats": ...}`. The functions can be jitted, with the model and the options fixed. All images and
their variants are computed as one batch, so memory grows with both.
"""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, PRNGKeyArray

from pneumojax.models.classifier import Classifier, Variables, halves

Images = Float[Array, "batch height width 1"]
Maps = Float[Array, "batch height width"]
Outputs = Float32[Array, "batch rows columns channels"]  # of a layer
_COVERED_AT_ONCE = 64  # images


def last_convolution(model: Classifier) -> str:
    """Return the default layer of Grad-CAM: the last convolution."""
    return f"conv_{len(model.blocks)}"


def grad_cam(model: Classifier, variables: Variables, images: Images, *, layer: str) -> Maps:
    """Compute Grad-CAM (Selvaraju et al. 2017, Eqs. 1 and 2) without its ReLU, so evidence against pneumonia remains.

    The channels of `layer`, one of `summary.layer_rows`, are summed, each weighted by its mean gradient.

    Raises:
      KeyError: there is no such layer.
      ValueError: its output has no height and width.
    """
    outputs, gradients = _outputs_and_gradients(model, variables, images, layer)
    weights = gradients.mean((1, 2), keepdims=True)
    return _enlarged((weights * outputs).sum(3), images)


def grad_cam_plus_plus(model: Classifier, variables: Variables, images: Images, *, layer: str) -> Maps:
    """Compute Grad-CAM++ (Chattopadhyay et al. 2018, Eqs. 10 and 19), which weights each place's gradient separately.

    It uses only positive gradients, so it shows only evidence for pneumonia. Arguments and errors are those of
    `grad_cam`.
    """
    outputs, gradients = _outputs_and_gradients(model, variables, images, layer)
    square, cube = gradients**2, gradients**3
    below = 2 * square + outputs.sum((1, 2), keepdims=True) * cube
    shares = jnp.where(square > 0, square / jnp.where(below == 0, 1, below), 0)
    weights = (shares * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
    return _enlarged((weights * outputs).sum(3), images)


def integrated_gradients(
    model: Classifier, variables: Variables, images: Images, *, steps: int, baseline: Images | float = 0.0
) -> Maps:
    """Compute integrated gradients (Sundararajan et al. 2017, Eq. 1), in logits.

    A map sums to the image's logit minus the baseline's, up to an error that depends on the steps and on precision.
    Near a uniform baseline, rounding decides which of nearly equal neighbours max-pooling takes, so float32 maps are
    off by a few per cent of their largest value. Float64 images need float64 variables. With a blurred baseline, a map
    shows the effect of detail, not of brightness.

    Args:
      steps: points on the path, by Gauss-Legendre quadrature.
      baseline: start of the path: images, or one grey level in [0, 1].
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    nodes, weights = (part.astype(images.dtype).reshape(-1, 1, 1, 1, 1) for part in ((nodes + 1) / 2, weights / 2))
    away = images - baseline
    path = cast(jax.Array, baseline + nodes * away).reshape(-1, *images.shape[1:])
    gradients = _gradients(model, variables, path).reshape(steps, *images.shape)
    return ((weights * gradients).sum(0) * away)[..., 0]


def smooth_grad(
    model: Classifier, variables: Variables, images: Images, *, key: PRNGKeyArray, samples: int, noise: float
) -> Maps:
    """Compute SmoothGrad (Smilkov et al. 2017): the mean gradient over noisy copies, in logits per unit of intensity.

    Args:
      key: of the noise, which is the same for every image.
      samples: copies of each image.
      noise: its standard deviation, relative to the range [0, 1].
    """
    added = noise * jax.random.normal(key, (samples, 1, *images.shape[1:]))
    copies = (images + added).reshape(-1, *images.shape[1:])
    return _gradients(model, variables, copies).reshape(samples, *images.shape).mean(0)[..., 0]


def occlusion(
    model: Classifier, variables: Variables, images: Images, *, window: int, stride: int, baseline: Images | float = 0.0
) -> Maps:
    """Compute occlusion sensitivity (Zeiler and Fergus 2014): the fall of the logit when a square is covered.

    A pixel under several squares gets their mean.

    Args:
      window: side of the square in pixels; the last squares are cut at the border.
      stride: pixels from one square to the next.
      baseline: what covers the square: images, or one grey level in [0, 1].
    """
    height, width = images.shape[1:3]
    rows, columns = (_covers(side, window, stride) for side in (height, width))
    squares = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, height, width)
    covered = []
    for chunk in np.array_split(squares, -(-len(squares) * len(images) // _COVERED_AT_ONCE)):
        if len(chunk):
            variants = jnp.where(chunk[:, None, :, :, None], baseline, images)
            covered.append(_logits(model, variables, variants.reshape(-1, *images.shape[1:])))
    falls = _logits(model, variables, images) - jnp.concatenate(covered).reshape(len(squares), len(images))
    counts = np.maximum(squares.sum(0), 1)
    return jnp.einsum("sn,shw->nhw", falls, squares.astype(np.float32)) / counts


METHODS: dict[str, Callable[..., Maps]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "integrated-gradients": integrated_gradients,
    "smooth-grad": smooth_grad,
    "occlusion": occlusion,
}


def _covers(side: int, window: int, stride: int) -> Bool[np.ndarray, "squares side"]:
    """Compute which pixels each square covers along one axis."""
    starts = np.arange(-(-max(side - window, 0) // stride) + 1) * stride
    places = np.arange(side)
    return (places >= starts[:, None]) & (places < starts[:, None] + window)


def _logits(model: Classifier, variables: Variables, images: Images) -> Float32[Array, " batch"]:
    return cast(jax.Array, model.apply(variables, images, train=False))


def _gradients(model: Classifier, variables: Variables, images: Images) -> Images:
    """Compute the gradient of each image's logit with respect to its pixels."""
    return jax.grad(lambda x: _logits(model, variables, x).sum())(images)


def _outputs_and_gradients(
    model: Classifier, variables: Variables, images: Images, layer: str
) -> tuple[Outputs, Outputs]:
    """Compute a layer's output, and the gradient of each logit with respect to it."""
    first, second = halves(model, variables, layer)
    outputs = first(images)
    if outputs.ndim != 4:
        raise ValueError(f"layer {layer} has no height and width: choose one of a block")
    gradients = jax.grad(lambda x: second(x).sum())(outputs)
    return outputs.astype(jnp.float32), gradients.astype(jnp.float32)


def _enlarged(maps: Float32[Array, "batch rows columns"], images: Images) -> Maps:
    return jax.image.resize(maps, (len(maps), *images.shape[1:3]), "linear")
