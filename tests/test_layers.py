"""What dropout is decided by."""

import jax
import numpy as np

from pneumojax import layers


def test_random_bits_are_random():
    """Each bit is set in half of the cases; neighbours, rows, images and steps know nothing of each other.

    All limits are six standard deviations.
    """
    shape = (16, 64, 32, 64)
    both = [layers.random_bits(layers.dropout(jax.random.key(k), 0.1, shape).seeds, *shape[2:]) for k in (0, 1)]
    bits, others = (np.asarray(b) for b in both)
    count = bits.size
    for place in range(32):
        assert abs((bits >> place & 1).mean() - 0.5) < 6 * 0.5 / np.sqrt(count), place
    for share in (0.1, 0.2, 0.5):
        dropped = bits < np.uint32(share * 2**32)
        spread = 6 * np.sqrt(share * (1 - share) / count)
        assert abs(dropped.mean() - share) < spread
        pairs = [(dropped, others < np.uint32(share * 2**32))]
        pairs += [(dropped, np.roll(dropped, step, axis)) for axis in range(4) for step in (1, 2, 4)]
        for one, other in pairs:
            assert abs((one & other).mean() - share**2) < 6 * share / np.sqrt(count)
    # What falls on each place of the row, over all rows: 2,048 places, 1,024 rows.
    per_place = (bits < np.uint32(2**31)).sum((0, 1))
    assert np.abs(per_place - 512).max() < 6 * 16
