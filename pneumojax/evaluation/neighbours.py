"""The training images nearest to an image in the model's features, and how far away they are.

Features are the output of the model's last hidden layer, scaled to unit length; distances are Euclidean, in [0, 2].
"""

import io
import json
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float, Float32, Integer, Shaped, UInt8

from pneumojax.runtime import run_identity
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import write_arrays
from pneumojax.runtime.workdir import CONFIG, NEIGHBOURS

LAYER = "dense_1"  # the last hidden one
K = 10  # the OOD score is the distance to the K-th nearest training image
VAL_SHARE = 0.99  # of val has an OOD score within the limit
DISTANCES_AT_ONCE = 1 << 24  # 64 MiB
MOST = 50_000  # training images in an index: with all of them, time and memory would grow with the square of a source
NONE_SEEN = np.zeros((0, 32), np.uint8)
GUARD_PARTS = 4  # of the OOD score, see `guard`
EXPECTED = 0.015  # of val is unlike training by the guard; of the features alone, 0.01
_NOTHING = np.zeros(0, np.float32)
_NONE = np.zeros((0, 0), np.float32)


class Index(NamedTuple):
    """The training images of a model, to be searched: all, or the `MOST` that `places` chooses.

    Attributes:
      ids: strings.
      labels: 1 is pneumonia.
      features: each of length 1, or 0 where no unit is active.
      limit: of the OOD score; an image beyond it is flagged as unlike the training images.
      seen: hashes of the images of train and val, see `known_pictures`; none in the files of version 0.1.
      guard_center, guard_axes, guard_training, guard_turned, guard_limits: of the guard, see `guard`; empty where the
        OOD score is the distance in the features alone, as in files of earlier versions.
      val_labels, val_logits, val_scores: of val, in its order: 1 is pneumonia; the network's raw logits; the OOD
        scores. Empty in files of earlier versions.
    """

    ids: Shaped[np.ndarray, " n"]
    labels: UInt8[np.ndarray, " n"]
    features: Float32[np.ndarray, "n d"]
    limit: float
    seen: UInt8[np.ndarray, "m 32"] = NONE_SEEN
    guard_center: Float32[np.ndarray, " statistics"] = _NOTHING
    guard_axes: Float32[np.ndarray, "statistics axes"] = _NONE
    guard_training: Float32[np.ndarray, "n near"] = _NONE
    guard_turned: Float32[np.ndarray, " statistics"] = _NOTHING
    guard_limits: Float32[np.ndarray, " parts"] = _NOTHING
    val_labels: UInt8[np.ndarray, " val"] = NONE_SEEN[:, 0]
    val_logits: Float32[np.ndarray, " val"] = _NOTHING
    val_scores: Float32[np.ndarray, " val"] = _NOTHING


def places(count: int, most: int = MOST) -> Integer[np.ndarray, " kept"]:
    """Choose the images of `count` that an index holds: all, or `most` from evenly over their order."""
    kept = min(count, most)
    return np.arange(kept) * count // max(kept, 1)


def build(
    ids: Shaped[np.ndarray, " n"],
    labels: Integer[np.ndarray, " n"],
    features: Float[np.ndarray, "n d"],
    val_features: Float[np.ndarray, "val d"],
    seen: UInt8[np.ndarray, "m 32"] = NONE_SEEN,
) -> Index:
    """Build the index of the training images, with the limit that `VAL_SHARE` of val does not exceed."""
    index = Index(ids, np.asarray(labels, np.uint8), unit(features), np.inf, seen)
    return index._replace(limit=float(np.quantile(ood_scores(index, val_features), VAL_SHARE)))


def unit(features: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Scale each row to length 1; rows of zeros stay."""
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths == 0, 1, lengths)


def ood_scores(
    index: Index, features: Float[np.ndarray, "k d"], distances_at_once: int = DISTANCES_AT_ONCE
) -> Float32[np.ndarray, " k"]:
    """Compute out-of-distribution scores: each image's distance to its `K`-th nearest training image, in [0, 2].

    Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", 2022. Features may have any length. At most
    `distances_at_once` distances are held in memory.
    """
    return kth_distances(index.features, unit(features), K, distances_at_once)


def kth_distances(
    training: Float32[np.ndarray, "n d"],
    queries: Float32[np.ndarray, "k d"],
    kth: int,
    distances_at_once: int = DISTANCES_AT_ONCE,
) -> Float32[np.ndarray, " k"]:
    """Compute the distance of each query to the `kth` nearest row of training, or to the farthest of fewer rows."""
    rank = min(kth, len(training)) - 1
    blocks = _blocks(queries, len(training), distances_at_once)
    # A column alone would keep the distances of its block in memory.
    squares = [np.partition(_squared_distances(training, block), rank, 1)[:, rank].copy() for block in blocks]
    return np.sqrt(np.maximum(np.concatenate(squares), 0))


def warnings(what: str, n: int, known: int, unlike: int) -> list[str]:
    """Return in sentences whether images say nothing about new films, or are many that are unlike the training images.

    Many are more than chance explains (p < 0.001) where 1.5 % is expected, as of val.

    Args:
      what: the images, such as "20 images of test".
      n: how many they are.
      known: how many show pictures of train or val.
      unlike: how many have an OOD score beyond the limit.
    """
    found = []
    if known:
        found.append(
            f"The model was trained or chosen on {known:,} of {what}: scores on them are too good. Leave them out."
        )
    if unlike <= 1:
        return found
    from scipy.special import bdtrc  # not at the top: it is slow to import

    if bdtrc(unlike - 1, n, EXPECTED) < 0.001:
        found.append(
            f"{unlike:,} of {what} are unlike the training images ({unlike / n:.0%}; of val, {EXPECTED:.1%} is):"
            " probabilities and thresholds may not hold here."
        )
    return found


def nearest(
    index: Index,
    features: Float[np.ndarray, "k d"],
    count: int,
    label: int | None = None,
    distances_at_once: int = DISTANCES_AT_ONCE,
) -> tuple[Integer[np.ndarray, "k count"], Float32[np.ndarray, "k count"]]:
    """Find the `count` training images nearest to each image, or all if there are fewer; with `label`, only its own.

    Features and `distances_at_once` are as in `ood_scores`.

    Returns:
      Their positions in the index, and their distances in ascending order.
    """
    candidates = np.arange(len(index.ids)) if label is None else np.flatnonzero(index.labels == label)
    training = index.features[candidates]
    blocks = _blocks(unit(features), len(candidates), distances_at_once)
    parts = [_nearest(training, block, min(count, len(candidates))) for block in blocks]
    positions, distances = (np.concatenate(part) for part in zip(*parts, strict=True))
    return candidates[positions], distances


def _blocks(features: Float32[np.ndarray, "k d"], n: int, distances_at_once: int) -> list[Float32[np.ndarray, "_ d"]]:
    """Divide rows into blocks, at least one, whose distances to `n` others fit the memory."""
    rows = max(distances_at_once // max(n, 1), 1)
    return [features[start : start + rows] for start in range(0, max(len(features), 1), rows)]


def _squared_distances(
    features: Float32[np.ndarray, "n d"], queries: Float32[np.ndarray, "k d"]
) -> Float32[np.ndarray, "k n"]:
    """Compute squared distances; rounding may leave some slightly below zero."""
    squares = queries @ features.T
    squares *= -2
    squares += np.square(features).sum(1)
    squares += np.square(queries).sum(1)[:, None]
    return squares


def _nearest(
    features: Float32[np.ndarray, "n d"], queries: Float32[np.ndarray, "k d"], count: int
) -> tuple[Integer[np.ndarray, "k count"], Float32[np.ndarray, "k count"]]:
    distances = np.sqrt(np.maximum(_squared_distances(features, queries), 0))
    if count < len(features):
        positions = np.argpartition(distances, count - 1, 1)[:, :count]
    else:
        positions = np.broadcast_to(np.arange(len(features)), distances.shape)
    order = np.argsort(np.take_along_axis(distances, positions, 1), 1, kind="stable")
    positions = np.take_along_axis(positions, order, 1)
    return positions, np.take_along_axis(distances, positions, 1)


def write(workdir: epath.Path, index: Index) -> None:
    """Write the index into the run's workdir, with the run's id."""
    texts = {"ids": json.dumps(index.ids.tolist()), "run": run_identity.of_workdir(workdir).id}
    write_arrays(workdir / NEIGHBOURS, index._asdict() | {name: np.array(text) for name, text in texts.items()})


def read(workdir: epath.Path, width: int | None = None) -> Index:
    """Read the index of the run in `workdir`, whose features have `width` numbers if that is known.

    Raises:
      UserError: there is none, it is damaged, or it is of another run.
    """
    path = workdir / NEIGHBOURS
    advice = f"run --mode=evaluate --workdir={workdir} to write it again"
    if not path.exists():
        raise UserError(f"{path} is missing: {advice}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            index = Index(**{name: arrays[name] for name in Index._fields if name in arrays})
            run = str(arrays["run"]) if "run" in arrays else ""  # 0.1 wrote none
        index = index._replace(ids=np.array(json.loads(str(index.ids))), limit=float(index.limit))
        _check(index, width)
    except Exception as error:  # NumPy and zipfile raise many kinds of errors on a damaged file
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}): {advice}") from None
    if run != run_identity.of_workdir(workdir).id:
        raise UserError(f"{path} is of another run than {workdir / CONFIG}: {advice}")
    return index


def is_intact(workdir: epath.Path) -> bool:
    """Whether `read` can read the index."""
    try:
        read(workdir)
    except (OSError, UserError):
        return False
    return True


def check_additions(index: Index) -> None:
    """Raise ValueError if guard and val of an index are neither empty nor what `guard.guarded` adds."""
    guard = (index.guard_center, index.guard_axes, index.guard_training, index.guard_turned, index.guard_limits)
    numbers = (*guard, index.val_logits, index.val_scores)
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in numbers):
        raise ValueError("its guard or val is of another type, or holds numbers that are not finite")
    count = len(index.guard_center)
    near = index.guard_training.shape[1:]
    rows = len(index.features) if count else 0
    shapes = ((count,), (count, count), (rows, *near), (count,), (GUARD_PARTS if count else 0,))
    if tuple(array.shape for array in guard) != shapes or (index.guard_limits <= 0).any() or not near <= (count,):
        raise ValueError("its guard is of another shape")
    val = (index.val_labels, index.val_logits, index.val_scores)
    if len({array.shape for array in val}) != 1 or index.val_labels.ndim != 1 or index.val_labels.dtype != np.uint8:
        raise ValueError("its val is of another shape or type")
    if (index.val_labels > 1).any():
        raise ValueError("its val has other labels")


def _check(index: Index, width: int | None) -> None:
    """Raise ValueError if this is not what `build` returns."""
    features = index.features
    if not 0 < len(index.ids) == len(index.labels) == len(features):
        raise ValueError("its arrays differ in length")
    shaped = features.ndim == 2 and features.shape[1] == (width or features.shape[1]) and index.labels.ndim == 1
    if not shaped or features.dtype != np.float32 or index.labels.dtype != np.uint8:
        raise ValueError("its arrays are of other shapes or types")
    if index.ids.dtype.kind != "U" or index.ids.ndim != 1 or index.labels.max() > 1:
        raise ValueError("its ids or labels are of another kind")
    if index.seen.dtype != np.uint8 or index.seen.shape[1:] != NONE_SEEN.shape[1:]:
        raise ValueError("its hashes are of another shape or type")
    check_additions(index)
    # A NaN compares as false with everything: no image would be flagged as unlike the training images.
    if not (np.isfinite(features).all() and 0 <= index.limit <= 2.01):
        raise ValueError("it holds numbers that are no features of length 1 and no distance")
