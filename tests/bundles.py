"""Exported models with random weights, for tests that need no trained one."""

from functools import cache

import jax
import numpy as np
from etils import epath

from pneumojax.data.sources import phantom
from pneumojax.evaluation import film_statistics, guard
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.known_pictures import hash_of
from pneumojax.evaluation.neighbours import Index, unit
from pneumojax.export import parity
from pneumojax.inference import bundle, trained_model
from pneumojax.inference.trained_model import Member, TrainedModel
from pneumojax.models.architectures import FAMILY, HEAD_UNITS, Block
from pneumojax.models.classifier import Classifier, init_variables


@cache
def phantoms(count: int, size: int, seed: int = 1) -> np.ndarray:
    """Return synthetic radiographs of both classes, (count, size, size) uint8, which cannot be written to."""
    images = np.stack([phantom.render(seed, number, number % 2, size)[0] for number in range(count)])
    images.flags.writeable = False
    return images


def random_model(
    blocks: tuple[Block, ...] = FAMILY["m1"], size: int = 32, members: int = 1, dtype: str = "float32"
) -> TrainedModel:
    """Return a model that decides half of some phantoms either way. It has "seen" one of them, of seed 2."""
    made = [_member(blocks, size, number, dtype) for number in range(members)]
    calibration = Calibration(0.8, 0.5, 0.4, 0.5, 0.0)
    model = trained_model.of_members("m1", made, calibration, size)
    middle = float(np.median(parity.of_model(model, phantoms(16, size))["logit"]))
    return trained_model.of_members("m1", made, calibration._replace(offset=-middle / 0.8), size)


def _member(blocks: tuple[Block, ...], size: int, seed: int, dtype: str) -> Member:
    model = Classifier(
        blocks, equalize=seed % 2 == 0, dtype=np.dtype(dtype) if dtype == "float32" else jax.numpy.bfloat16
    )
    rng = np.random.default_rng(seed)

    def varied(path: tuple, leaf: jax.Array) -> np.ndarray:
        """Batch normalization's numbers and biases start at 0 or 1, where many mistakes do not show."""
        is_kernel = jax.tree_util.keystr(path).endswith("['kernel']")
        return np.asarray(leaf + (0 if is_kernel else rng.normal(0, 0.2, leaf.shape)), np.float32)

    variables = jax.tree_util.tree_map_with_path(varied, init_variables(model, size, seed))
    for statistics in variables["batch_stats"].values():
        statistics["var"] = np.abs(statistics["var"]) + np.float32(0.1)
    features = unit(np.abs(rng.normal(size=(40, HEAD_UNITS))))
    seen = hash_of(phantoms(1, size, seed=2)[0])[None]
    labels = np.arange(40, dtype=np.uint8) % 2
    index = _guarded(Index(np.arange(40).astype(str), labels, features, 0.9, seen), size)
    return Member(model, variables, index, 1.0 + seed / 2)


def _guarded(index: Index, size: int) -> Index:
    """Return the index with a guard of 40 phantoms, where images are large enough for one."""
    if size < film_statistics.MIN_SIZE:
        return index
    images = phantoms(40, size, seed=4)
    statistics = film_statistics.of(images)
    val = film_statistics.of(phantoms(40, size, seed=5))
    return guard.guarded(index, statistics, val, index.features, film_statistics.of(guard.turned(images)))


def written(model: TrainedModel, folder: epath.PathLike) -> epath.Path:
    """Write a model as an exported folder has it, and return that."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in bundle.contents(model, {}).items():
        (folder / name).write_bytes(content)
    return folder
