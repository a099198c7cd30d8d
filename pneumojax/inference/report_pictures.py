"""What a run's report shows of the run's own images, kept in the workdir: the report can be written without them."""

import io
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from pneumojax.inference.worst_errors import Neighbour, WorstError
from pneumojax.runtime.files import write_arrays
from pneumojax.runtime.workdir import REPORT_PICTURES

SAMPLES_PER_CLASS = 6  # of each split


class Sample(NamedTuple):
    """An image of a split, and its label."""

    split: str
    label: int
    id: str
    image: UInt8[np.ndarray, "side side"]


class Pictures(NamedTuple):
    """The samples of each split and class, and the worst errors on the foremost split."""

    samples: Sequence[Sample]
    errors: Sequence[WorstError]


def write(workdir: epath.Path, pictures: Pictures) -> None:
    """Write the pictures into the run's workdir."""
    near = [neighbour for error in pictures.errors for neighbour in error.nearest]
    details = {
        "samples": [[sample.split, sample.label, sample.id] for sample in pictures.samples],
        "errors": [[error.id, error.label, error.probability, error.unlike] for error in pictures.errors],
        "nearest": [[[one.id, one.label, one.distance] for one in error.nearest] for error in pictures.errors],
    }
    arrays = {
        "details": np.array(json.dumps(details)),
        "samples": _stack([sample.image for sample in pictures.samples]),
        "errors": _stack([error.image for error in pictures.errors]),
        "explained": _stack([error.explained for error in pictures.errors]),
        "nearest": _stack([one.image for one in near]),
    }
    write_arrays(workdir / REPORT_PICTURES, arrays)


def _stack(images: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(images) if images else np.zeros(0, np.uint8)


def read(workdir: epath.Path) -> Pictures | None:
    """Read the pictures of the run in `workdir`; None where the file is missing or damaged."""
    try:
        with np.load(io.BytesIO((workdir / REPORT_PICTURES).read_bytes()), allow_pickle=False) as arrays:
            details = json.loads(str(arrays["details"]))
            images = {name: arrays[name] for name in ("samples", "errors", "explained", "nearest")}
        samples = [
            Sample(split, label, id, image)
            for (split, label, id), image in zip(details["samples"], images["samples"], strict=True)
        ]
        near = iter(images["nearest"])
        errors = [
            WorstError(
                id, label, probability, image, explained, unlike, [Neighbour(*one, image=next(near)) for one in nearest]
            )
            for (id, label, probability, unlike), image, explained, nearest in zip(
                details["errors"], images["errors"], images["explained"], details["nearest"], strict=True
            )
        ]
    except Exception:  # NumPy and zipfile raise many kinds of errors on a damaged file; --mode=evaluate writes it again
        return None
    return Pictures(samples, errors)
