"""The films on which an export is compared with the model: val of the model's run, or others that the user names."""

from collections.abc import Iterable, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pneumojax.data import data_settings
from pneumojax.data.decode import images
from pneumojax.data.source import name_of, read_images
from pneumojax.data.sources import phantom
from pneumojax.data.sources.unlabelled import look_at_file, open_inputs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import run_folder, trained_models
from pneumojax.workflows.run_config import read_config

MAX_FILMS = 256  # as squares: a trained network computes them in seconds
MAX_WHOLE = 32  # at full size, up to 20 million pixels each
PHANTOMS, _DRAWN = "phantom", 16


class Films(NamedTuple):
    """Films to compare with.

    Attributes:
      source: short name of where they come from.
      squares: (n, size, size) uint8, as the model sees them: evenly from val, or the first of `--data`.
      whole: the first of them, as far as they are files, at full size: (height, width) uint8, grey.
    """

    source: str
    squares: np.ndarray
    whole: Sequence[np.ndarray]


def films(config: ConfigDict, workdir: epath.Path, model: epath.Path | None, data: str | None) -> Films:
    """Read the films at `data`; without it, val of the run in the workdir, or of an experiment's first run.

    "phantom" stands for phantoms, by which a model can be compared where there are no films.

    Raises:
      UserError: there are none, or the run's own source is gone.
    """
    size = config.model.image_size
    if data == PHANTOMS and not Path(data).exists():
        return _drawn(size)
    if data is not None:
        return _given(data, size)
    if model is not None:
        raise UserError("give --data: films (without labels) on which the exported files are compared with the model")
    run = trained_models.ensemble_folders(workdir)[0] if workdirs.is_experiment(workdir) else workdir
    source = run_folder.open_own(read_config(run).data.source, data_settings.source_options(read_config(run)))
    records = run_folder.own_splits(run, source)["val"]
    chosen = [records[i] for i in _evenly(len(records))]
    squares = read_images(source, chosen, size)[..., 0]
    files = (source.file_of(record) for record in chosen)
    return Films(source.name, squares, _whole(takewhile(bool, files)))


def _evenly(count: int) -> list[int]:
    """Return at most `MAX_FILMS` of the numbers below `count`, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, min(count, MAX_FILMS)).round().astype(int).tolist()))


def _given(data: str, size: int) -> Films:
    """Read the first films at `data` that can be read."""
    inputs = open_inputs(data)
    seen = ((id, inputs.look(id, size=size)) for id in inputs.ids)
    readable = list(islice(((id, one.image) for id, one in seen if one.image is not None), MAX_FILMS))
    if not readable:
        raise UserError(f"no image at {data} can be read: give other films by --data")
    paths = [Path(id) for id, _ in readable] if inputs.look is look_at_file else []
    return Films(name_of(data), np.stack([image for _, image in readable]), _whole(paths))


def _drawn(size: int) -> Films:
    """Draw phantoms twice as large as the square, half of them with pneumonia."""
    whole = [phantom.render(0, number, number % 2, 2 * size)[0] for number in range(_DRAWN)]
    squares = np.stack([images.resize(Image.fromarray(film), size) for film in whole])
    return Films(PHANTOMS, squares, whole)


def _whole(paths: Iterable[Path | None]) -> list[np.ndarray]:
    return [images.whole(path) for path in islice(paths, MAX_WHOLE) if path]
