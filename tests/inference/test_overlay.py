"""Overlays: the colour shows the sign, its strength the size."""

import numpy as np

from pneumojax.inference.overlay import AGAINST, FOR, overlay, smoothed

GREY = np.full((20, 20), 128, np.uint8)


def test_a_map_of_zeros_leaves_the_image_unchanged():
    np.testing.assert_array_equal(overlay(GREY, np.zeros((20, 20))), np.repeat(GREY[..., None], 3, 2))


def test_the_sign_sets_the_colour_and_the_size_sets_the_strength():
    values = np.zeros((80, 80))
    values[:20], values[20:40], values[40:60] = 2.0, -2.0, 1.0
    picture = overlay(np.full((80, 80), 128, np.uint8), values).astype(float)
    for row, colour, share in ((5, FOR, 0.65), (30, AGAINST, 0.65), (50, FOR, 0.325)):
        np.testing.assert_allclose(picture[row], np.broadcast_to(128 + share * (colour - 128), (80, 3)), atol=0.5)


def test_maps_are_smoothed_over_neighbouring_pixels():
    """Gradients change their sign from pixel to pixel, so a neighbourhood's mean must be drawn."""
    values = np.where(np.indices((80, 80)).sum(0) % 2, 3.0, -2.0)
    values[:, 40:] *= -1
    smooth = smoothed(values)
    np.testing.assert_allclose(smooth[:, 10], 0.5, atol=0.05)
    np.testing.assert_allclose(smooth[:, 70], -0.5, atol=0.05)
