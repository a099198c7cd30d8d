"""Overlays: colour says which way, strength how much."""

import numpy as np

from pneumojax.overlay import AGAINST, FOR, overlay, smoothed

GREY = np.full((20, 20), 128, np.uint8)


def test_what_says_nothing_is_left_as_it_is():
    np.testing.assert_array_equal(overlay(GREY, np.zeros((20, 20))), np.repeat(GREY[..., None], 3, 2))


def test_the_sign_chooses_the_colour_and_the_size_the_strength():
    values = np.zeros((80, 80))
    values[:20], values[20:40], values[40:60] = 2.0, -2.0, 1.0
    shown = overlay(np.full((80, 80), 128, np.uint8), values).astype(float)
    for row, colour, share in ((5, FOR, 0.65), (30, AGAINST, 0.65), (50, FOR, 0.325)):
        np.testing.assert_allclose(shown[row], np.broadcast_to(128 + share * (colour - 128), (80, 3)), atol=0.5)


def test_a_place_counts_and_not_a_pixel():
    """Gradients change their sign from pixel to pixel: what a neighbourhood says in sum is what is drawn."""
    values = np.where(np.indices((80, 80)).sum(0) % 2, 3.0, -2.0)
    values[:, 40:] *= -1
    seen = smoothed(values)
    np.testing.assert_allclose(seen[:, 10], 0.5, atol=0.05)
    np.testing.assert_allclose(seen[:, 70], -0.5, atol=0.05)
