"""An attribution method, compiled for one model with the config's options."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8
from ml_collections import ConfigDict

from pneumojax.inference import attribution, faithfulness
from pneumojax.models.classifier import Classifier, Variables, behind_equalization
from pneumojax.models.summary import layer_rows
from pneumojax.runtime.errors import UserError, unknown
from pneumojax.training.augment import blurred

Explainer = Callable[[Variables, UInt8[np.ndarray, "size size"]], Float32[np.ndarray, "size size"]]


def methods(config: ConfigDict) -> list[str]:
    """Return the methods that the config asks for, each once.

    Raises:
      UserError: it asks for none, or for one that does not exist.
    """
    names = list(dict.fromkeys(filter(None, config.explanation.methods.split(","))))
    for name in names:
        if name not in attribution.METHODS:
            raise unknown("method", name, attribution.METHODS)
    if not names:
        raise UserError(f"--config.explanation.methods is empty: choose from {', '.join(attribution.METHODS)}")
    return names


def explainer(name: str, model: Classifier, config: ConfigDict) -> Explainer:
    """Compile the method of this name in `attribution.METHODS` with the config's options.

    Returns:
      A function that takes the model's variables and an image, and returns its map.

    Raises:
      UserError: the model has no such layer, or the layer has no height and width.
    """
    options = _options(name, model, config)
    has_baseline = name in ("integrated-gradients", "occlusion")
    black = config.explanation.baseline == "black"

    @jax.jit
    def explained(variables: Variables, image: UInt8[Array, "size size"]) -> Float[Array, "size size"]:
        images = image[None, :, :, None].astype(jnp.float32) / 255
        network, images = behind_equalization(model, images)
        baseline = {"baseline": 0.0 if black else blurred(images, faithfulness.BLUR)} if has_baseline else {}
        with jax.default_matmul_precision("highest"):  # maps are small differences of large numbers
            return attribution.METHODS[name](network, variables, images, **options, **baseline)[0]

    def explain(variables: Variables, image: UInt8[np.ndarray, "size size"]) -> Float32[np.ndarray, "size size"]:
        return np.asarray(explained(variables, image))

    return explain


def _options(name: str, model: Classifier, config: ConfigDict) -> dict[str, Any]:
    """Return a method's options except the baseline."""
    settings = config.explanation
    if name in ("grad-cam", "grad-cam++"):
        return {"layer": _layer(model, config)}
    if name == "integrated-gradients":
        return {"steps": settings.steps}
    if name == "smooth-grad":
        return {"samples": settings.samples, "noise": settings.noise, "key": jax.random.key(config.seed)}
    return squares(config, config.model.image_size)


def squares(config: ConfigDict, size: int) -> dict[str, int]:
    """Return occlusion's `window` and `stride`, in pixels, on images of this size."""
    shares = {"window": config.explanation.square, "stride": config.explanation.square_step}
    return {name: max(round(share * size), 1) for name, share in shares.items()}


def _layer(model: Classifier, config: ConfigDict) -> str:
    """Return the layer of Grad-CAM."""
    layer = config.explanation.layer
    if not layer:
        return attribution.last_convolution(model)
    shapes = {row.name: row.shape for row in layer_rows(model, config.model.image_size)}
    if layer not in shapes:
        raise unknown("layer", layer, shapes)
    if len(shapes[layer]) != 3:
        raise UserError(f"layer {layer} has no height and width: choose one of a block, such as {next(iter(shapes))}")
    return layer
