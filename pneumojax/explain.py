"""Where in an image a model's answer comes from: pure functions of a model, its variables and images.

Each gives maps of the images' size, (batch, height, width) float32: positive where the image speaks for pneumonia,
negative where it speaks against it, in units that each function names. Images are (batch, height, width, 1) float in
[0, 1]. The model is in inference mode; what is explained is its logit. They can be jitted, with the model and the
options fixed; all images and their variants are computed as one batch, so memory grows with both.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pneumojax.models import Classifier, halves

_AT_ONCE = 64  # images that occlusion has covered at a time


def last_convolution(model: Classifier) -> str:
    """The layer that Grad-CAM looks at by default: the last that still has places."""
    return f"conv_{len(model.blocks)}"


def grad_cam(model: Classifier, variables: dict, images: jax.Array, *, layer: str) -> jax.Array:
    """Grad-CAM (Selvaraju et al. 2017, Eqs. 1 and 2), without the ReLU that keeps what speaks for a class alone.

    Args:
      model, variables, images: as above.
      layer: whose channels are summed, each by its mean gradient: one of `models.layer_rows` with height and width.

    Raises:
      KeyError: there is no such layer.
      ValueError: its output has no height and width.
    """
    outputs, gradients = _outputs_and_gradients(model, variables, images, layer)
    weights = gradients.mean((1, 2), keepdims=True)
    return _enlarged((weights * outputs).sum(3), images)


def grad_cam_plus_plus(model: Classifier, variables: dict, images: jax.Array, *, layer: str) -> jax.Array:
    """Grad-CAM++ (Chattopadhyay et al. 2018, Eqs. 10 and 19): each place's positive gradient by a weight of its own.

    Its sum is of positive gradients, and so tells of what speaks for pneumonia. Arguments and errors are `grad_cam`'s.
    """
    outputs, gradients = _outputs_and_gradients(model, variables, images, layer)
    square, cube = gradients**2, gradients**3
    below = 2 * square + outputs.sum((1, 2), keepdims=True) * cube
    shares = jnp.where(square > 0, square / jnp.where(below == 0, 1, below), 0)
    weights = (shares * jax.nn.relu(gradients)).sum((1, 2), keepdims=True)
    return _enlarged((weights * outputs).sum(3), images)


def integrated_gradients(
    model: Classifier, variables: dict, images: jax.Array, *, steps: int, baseline: jax.Array | float = 0.0
) -> jax.Array:
    """Integrated gradients (Sundararajan et al. 2017, Eq. 1): a map whose sum is the logit less the baseline's.

    How nearly depends on the steps and on the images' precision: near an even baseline, rounding decides which of
    nearly equal neighbours max-pool takes, so that float32 maps are up to some hundredths of their largest value off.
    From a blurred image the path adds what the blur took, and a map tells of detail and not of brightness alone.

    Args:
      model, variables, images: as above; float64 images want float64 variables.
      steps: at which the path is looked at, by Gauss and Legendre's rule.
      baseline: that the path begins at: images like `images`, or the grey, in [0, 1], of an even one.
    """
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    nodes, weights = (part.astype(images.dtype).reshape(-1, 1, 1, 1, 1) for part in ((nodes + 1) / 2, weights / 2))
    away = images - baseline
    path = (baseline + nodes * away).reshape(-1, *images.shape[1:])
    gradients = _gradients(model, variables, path).reshape(steps, *images.shape)
    return ((weights * gradients).sum(0) * away)[..., 0]


def smooth_grad(
    model: Classifier,
    variables: dict,
    images: jax.Array,
    *,
    key: jax.Array,
    samples: int,
    noise: float,
) -> jax.Array:
    """SmoothGrad (Smilkov et al. 2017): the mean gradient over noisy copies, in logits for the whole range of grey.

    Args:
      model, variables, images: as above.
      key: of the noise, which is the same for every image.
      samples: copies of each image.
      noise: standard deviation, of the range [0, 1].
    """
    added = noise * jax.random.normal(key, (samples, 1, *images.shape[1:]))
    copies = (images + added).reshape(-1, *images.shape[1:])
    return _gradients(model, variables, copies).reshape(samples, *images.shape).mean(0)[..., 0]


def occlusion(
    model: Classifier,
    variables: dict,
    images: jax.Array,
    *,
    window: int,
    stride: int,
    baseline: jax.Array | float = 0.0,
) -> jax.Array:
    """Occlusion sensitivity (Zeiler and Fergus 2014): by how much the logit falls where a square is covered.

    A place under several squares has their mean.

    Args:
      model, variables, images: as above.
      window: side of the square in pixels; at the far borders what is left of it.
      stride: pixels from one square to the next.
      baseline: what covers: images like `images`, or a grey in [0, 1].
    """
    height, width = images.shape[1:3]
    rows, columns = (_covers(side, window, stride) for side in (height, width))
    squares = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, height, width)

    def logits_of(batch):
        return model.apply(variables, batch, train=False)

    chunks = np.array_split(squares, -(-len(squares) * len(images) // _AT_ONCE))
    covered = [
        logits_of(jnp.where(chunk[:, None, :, :, None], baseline, images).reshape(-1, *images.shape[1:]))
        for chunk in chunks
        if len(chunk)
    ]
    falls = logits_of(images) - jnp.concatenate(covered).reshape(len(squares), len(images))
    counts = np.maximum(squares.sum(0), 1)
    return jnp.einsum("sn,shw->nhw", falls, squares.astype(np.float32)) / counts


METHODS: dict[str, Callable[..., jax.Array]] = {
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_plus_plus,
    "integrated-gradients": integrated_gradients,
    "smooth-grad": smooth_grad,
    "occlusion": occlusion,
}


def _covers(side, window, stride) -> np.ndarray:
    """Along one axis, which pixels each square covers: (squares, side) bool."""
    starts = np.arange(-(-max(side - window, 0) // stride) + 1) * stride
    places = np.arange(side)
    return (places >= starts[:, None]) & (places < starts[:, None] + window)


def _gradients(model, variables, images):
    """Of each image's logit by its pixels."""
    return jax.grad(lambda x: model.apply(variables, x, train=False).sum())(images)


def _outputs_and_gradients(model, variables, images, layer):
    """A layer's output, and the gradient of each logit by it, both (batch, rows, columns, channels) float32."""
    first, second = halves(model, variables, layer)
    outputs = first(images)
    if outputs.ndim != 4:
        raise ValueError(f"layer {layer} has no height and width: choose one of a block")
    gradients = jax.grad(lambda x: second(x).sum())(outputs)
    return outputs.astype(jnp.float32), gradients.astype(jnp.float32)


def _enlarged(maps, images):
    return jax.image.resize(maps, (len(maps), *images.shape[1:3]), "linear")
