"""A map drawn over its image: red is evidence for pneumonia, blue is evidence against it."""

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import ndimage

FOR, AGAINST = np.array([213, 94, 0.0]), np.array([0, 114, 178.0])  # safe for colour-blind readers
_OPACITY = 0.65  # where the map is strongest
_SMOOTHING = 0.03  # standard deviation, relative to the height


def smoothed(values: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Smooth a map for viewing, since gradients of single pixels are mostly noise."""
    return ndimage.gaussian_filter(values, _SMOOTHING * len(values), mode="nearest")


def overlay(
    image: UInt8[np.ndarray, "height width"], values: Float[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a map, in any unit, over its grey image, smoothed and scaled to its largest absolute value; return RGB."""
    return tinted(image, smoothed(values))


def tinted(
    image: UInt8[np.ndarray, "height width"] | Float32[np.ndarray, "height width"],
    values: Float[np.ndarray, "height width"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw a map as `overlay` does, without smoothing it. Grey levels in float32 are computed with in float32."""
    largest = np.abs(values).max()
    strength = np.abs(values) / (largest if largest > 0 else 1) * _OPACITY
    seen, positive = image * (1 - strength), values > 0
    colors = np.array([FOR, AGAINST], np.float32 if image.dtype == np.float32 else np.float64)
    channels = [seen + np.where(positive, *levels) * strength for levels in colors.T]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
