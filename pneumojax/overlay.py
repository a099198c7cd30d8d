"""A map of an image as a picture over it: red where it speaks for pneumonia, blue where it speaks against."""

import numpy as np

FOR, AGAINST = np.array([213, 94, 0.0]), np.array([0, 114, 178.0])  # told apart by the colour-blind, too
_MOST = 0.65  # of the colour, where the map is largest
_CLIPPED = 99.5  # percentile of the map's size that is drawn as the largest: one pixel must not pale the rest


def overlay(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The picture.

    Args:
      image: (height, width) uint8.
      values: (height, width) float, of any unit: the strongest is drawn strongest.

    Returns:
      (height, width, 3) uint8.
    """
    largest = np.percentile(np.abs(values), _CLIPPED)
    strength = np.clip(np.abs(values) / (largest if largest > 0 else 1), 0, 1)[..., None] * _MOST
    colour = np.where(values[..., None] > 0, FOR, AGAINST)
    return np.rint(image[..., None] * (1 - strength) + colour * strength).astype(np.uint8)
