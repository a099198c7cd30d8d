"""The report of an epoch."""

import numpy as np

from pneumojax.training import progress


def test_an_epoch_of_one_class_has_no_auc():
    """Whole batches may miss a rare class; training goes on."""
    found = progress.brief(np.ones(4, np.uint8), np.array([1.0, 2.0, -1.0, 0.5]))
    assert (found["accuracy"], found["auc"]) == (0.75, None)
    line = progress.row(1, 2, found | {"learning_rate": 1e-3, "images_per_second": 9.0}, found)
    assert line.split()[3] == "-" and len(line) <= 78
