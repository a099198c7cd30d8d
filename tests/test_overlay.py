"""Overlays: colour says which way, strength how much."""

import numpy as np

from pneumojax.overlay import AGAINST, FOR, overlay

GREY = np.full((20, 20), 128, np.uint8)


def test_what_says_nothing_is_left_as_it_is():
    np.testing.assert_array_equal(overlay(GREY, np.zeros((20, 20))), np.repeat(GREY[..., None], 3, 2))


def test_the_sign_chooses_the_colour_and_the_size_the_strength():
    values = np.zeros((20, 20))
    values[:5], values[5:10], values[10:15] = 2.0, -2.0, 1.0
    shown = overlay(GREY, values).astype(float)
    for rows, colour, share in ((slice(0, 5), FOR, 0.65), (slice(5, 10), AGAINST, 0.65), (slice(10, 15), FOR, 0.325)):
        np.testing.assert_allclose(shown[rows], np.broadcast_to(128 + share * (colour - 128), (5, 20, 3)), atol=0.5)


def test_one_pixel_does_not_pale_the_rest():
    values = np.full((20, 20), 1.0)
    values[0, 0] = 1e6
    shown = overlay(GREY, values)
    np.testing.assert_array_equal(shown[0, 0], shown[9, 9])
