"""The config's source as a train split, and its feed by tf.data without an end."""

from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from pneumojax import curate
from pneumojax.data import pipeline
from pneumojax.data.readers import Split

ENDLESS = 10**9  # steps


def train_split(config: ConfigDict) -> Split:
    """All the source's images, prepared if need be.

    Raises:
      RuntimeError: they do not make one batch.
    """
    source = curate.open_own(config)
    prepared = curate.prepare_to_train(config, source)
    split = prepared.split("train", [record for record in source.records if record.id in prepared.places])
    if len(split.ids) < config.batch_size:
        raise RuntimeError(f"a batch of {config.batch_size} is larger than the {len(split.ids)} images")
    return split


def batches(config: ConfigDict, rows: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (rows, size, size, 1) uint8 and labels (rows,) uint8."""
    order = {"batch_size": config.batch_size, "seed": config.seed}
    return pipeline.feed(train_split(config), first_step=0, last_step=ENDLESS, rows=rows, **order)
