"""The feed of the config's source, as training has it, without an end."""

from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from pneumojax import curate
from pneumojax.data import pipeline

ENDLESS = 10**9  # steps


def batches(config: ConfigDict, rows: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (rows, size, size, 1) uint8 and labels (rows,) uint8 of all the source's images, prepared if need be."""
    source = curate.open_own(config)
    prepared = curate.prepare_own(config, source)
    split = prepared.split("train", [record for record in source.records if record.id in prepared.places])
    if len(split.ids) < config.batch_size:
        raise RuntimeError(f"a batch of {config.batch_size} is larger than the {len(split.ids)} images")
    return pipeline.feed(
        split, batch_size=config.batch_size, seed=config.seed, first_step=0, last_step=ENDLESS, rows=rows
    )
