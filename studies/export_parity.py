"""Compare exported ONNX graphs with the models on real films, from the pixels and from the files.

  python -m studies.export_parity --models=RUN,... --films=FOLDER,... [--count=32] [--prevalence=0.2]

Each model is taken as it is and with its prevalence restated. "Squares" compares equal squares: the largest differences
of the logit, the probability and the map. "Files" compares the graph of a whole film with what
`pneumojax.load(...).predict` does, which decodes a large JPEG at a fraction of its size: the largest difference of a
probability, and how many decisions differ at either threshold.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from pneumojax.data.decode import images
from pneumojax.data.sources.unlabelled import look_at_file, open_inputs
from pneumojax.evaluation import calibration
from pneumojax.export import onnx_parity, parity
from pneumojax.export.onnx_graph import batch_model, film_model
from pneumojax.inference.trained_model import TrainedModel
from pneumojax.workflows import trained_models
from studies import study


class Film(NamedTuple):
    """A film as the package reads it, (size, size) uint8, and all its pixels, (height, width) uint8."""

    square: np.ndarray
    whole: np.ndarray


def films(folder: str, count: int, size: int) -> Iterator[Film]:
    """Yield `count` films of a folder, evenly spaced; all where there are fewer."""
    ids = list(open_inputs(folder).ids)
    for id in islice(ids, 0, None, max(1, len(ids) // count)):
        seen = look_at_file(id, size)
        if seen.image is not None:
            yield Film(seen.image, images.whole(Path(id)))


def compare(model: TrainedModel, of: Sequence[Film]) -> dict[str, Any]:
    """Return the differences of squares, and those of files, see the module."""
    by = onnx_parity.runtime()
    squares, wholes = np.stack([film.square for film in of]), [film.whole for film in of]
    right = parity.of_model(model, squares, jnp.float32, maps=True)
    return {
        "films": len(of),
        "runtime": by.name,
        "squares": parity.differences(onnx_parity.of_squares(batch_model(model), squares, by), right),
        "files": parity.differences(onnx_parity.of_films(film_model(model), wholes, by), right),
    }


def measure(model: str, folder: str, count: int, prevalence: float) -> Iterator[dict[str, Any]]:
    """Yield a row for a model and a folder of films at each prevalence."""
    trained = trained_models.load_alone(model)
    of = list(islice(films(folder, count, trained.image_size), count))
    for share in (0.0, prevalence):
        restated = trained._replace(calibration=calibration.at_prevalence(trained.calibration, share))
        at = f"{share:g}" if share else "as in val"
        yield {"model": trained.name.upper(), "of": Path(folder).name, "prevalence": at} | compare(restated, of)


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--models", type=study.names, required=True, help="what --model takes, such as m1,runs/x")
    parser.add_argument("--films", type=study.names, required=True, help="folders of films")
    parser.add_argument("--count", type=int, default=32, help="films of each folder")
    parser.add_argument("--prevalence", type=float, default=0.2, help="to which probabilities are restated")
    given = parser.parse_args(argv)
    rows = [
        row
        for model in given.models
        for folder in given.films
        for row in measure(model, folder, given.count, given.prevalence)
    ]
    study.finish("export_parity", argv, {"rows": rows}, ["export-parity"], given.output)


if __name__ == "__main__":
    study.run(main)
