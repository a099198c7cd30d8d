"""A map of an image as a picture over it: red where it speaks for pneumonia, blue where it speaks against."""

import numpy as np
from scipy import ndimage

FOR, AGAINST = np.array([213, 94, 0.0]), np.array([0, 114, 178.0])  # told apart by the colour-blind, too
_MOST = 0.65  # of the colour, where the map is largest
_SMOOTH = 0.03  # standard deviation, of the side


def smoothed(values: np.ndarray) -> np.ndarray:
    """A map, (height, width) float, as it is looked at: by places, since gradients of pixels are mostly noise."""
    return ndimage.gaussian_filter(values, _SMOOTH * len(values), mode="nearest")


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The picture.

    Args:
      image: (height, width) uint8.
      values: (height, width) float, of any unit, which are smoothed; the strongest is drawn strongest.

    Returns:
      (height, width, 3) uint8.
    """
    values = smoothed(values)
    largest = np.abs(values).max()
    strength = (np.abs(values) / (largest if largest > 0 else 1))[..., None] * _MOST
    colour = np.where(values[..., None] > 0, FOR, AGAINST)
    return np.rint(image[..., None] * (1 - strength) + colour * strength).astype(np.uint8)
