"""The random bits that decide dropout."""

import jax
import numpy as np

from pneumojax.models import block_reference


def test_random_bits_are_random():
    """Each bit is set in half of the cases, independently of neighbours, rows, images and steps.

    All limits are six standard deviations.
    """
    shape = (16, 64, 32, 64)
    steps = [
        block_reference.random_bits(block_reference.dropout(jax.random.key(k), 0.1, shape).seeds, *shape[2:])
        for k in (0, 1)
    ]
    bits, others = (np.asarray(b) for b in steps)
    count = bits.size
    for place in range(32):
        assert abs((bits >> place & 1).mean() - 0.5) < 6 * 0.5 / np.sqrt(count), place
    for share in (0.1, 0.2, 0.5):
        dropped = bits < np.uint32(share * 2**32)
        spread = 6 * np.sqrt(share * (1 - share) / count)
        assert abs(dropped.mean() - share) < spread
        pairs = [(dropped, others < np.uint32(share * 2**32))]
        pairs += [(dropped, np.roll(dropped, step, axis)) for axis in range(4) for step in (1, 2, 4)]
        for first, second in pairs:
            assert abs((first & second).mean() - share**2) < 6 * share / np.sqrt(count)
    # Each of the 2,048 places in a row, over all 1,024 rows.
    per_place = (bits < np.uint32(2**31)).sum((0, 1))
    assert np.abs(per_place - 512).max() < 6 * 16
