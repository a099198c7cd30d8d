"""A trained model in a folder that needs no run: weights as safetensors, and all else as JSON."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from pneumojax import __version__
from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation import film_statistics
from pneumojax.evaluation.guard import has_guard
from pneumojax.evaluation.neighbours import EXPECTED, NONE_SEEN, Index, K, check_additions
from pneumojax.inference import site_file
from pneumojax.inference.trained_model import Member, TrainedModel, of_members, tensors, variables_of
from pneumojax.models.architectures import HEAD_UNITS, Block, shapes_of
from pneumojax.models.block_reference import EPSILON
from pneumojax.models.classifier import Classifier
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_json
from pneumojax.runtime.workdir import CONFIG, WEIGHTS

DESCRIPTION = CONFIG
FORMAT = "PneumoJAX model, version 1"
MAX_BYTES = 1 << 30  # of the weights: ten times those of M3 with their index
MAX_SIDE = 4096  # pixels of the square
_FEATURES, _SEEN = "training.features", "training.seen"
# What newer bundles have beside these, by the fields of `Index`.
_ADDITIONS = {
    "guard_center": "guard.center",
    "guard_axes": "guard.axes",
    "guard_training": "guard.training",
    "guard_turned": "guard.turned",
    "guard_limits": "guard.limits",
    "val_labels": "val.labels",
    "val_logits": "val.logits",
    "val_scores": "val.ood_scores",
}


def contents(model: TrainedModel, facts: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a bundle by name; their calibration is that of val, with the site's beside it.

    Neither ids nor labels of training images are kept: of them, the features, the hashes and the guard serve the flags
    "unlike_training" and "in_training". Labels and scores of val, without ids, serve `--mode=calibrate`.

    Args:
      model: what predicts, calibrated as on val.
      facts: more JSON values for the description, such as how the model was trained.
    """
    arrays: dict[str, np.ndarray] = {_SEEN: model.members[0].training.seen}
    for prefix, member in _prefixed(model):
        arrays |= {prefix + name: value for name, value in tensors(member.variables).items()}
        arrays[prefix + _FEATURES] = member.training.features
        additions = {name: getattr(member.training, field) for field, name in _ADDITIONS.items()}
        arrays |= {prefix + name: value for name, value in additions.items() if value.size}
    weights = safetensors.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    files = {"weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()}}
    description = description_of(model) | files | dict(facts)
    return {WEIGHTS: weights, DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode()}


def description_of(model: TrainedModel) -> dict[str, Any]:
    """Return what the description of a model's bundle says of the model itself."""
    networks = [
        {
            "prefix": prefix,
            "scale": member.scale,
            "ood_limit": member.training.limit,
            "blocks": [block._asdict() for block in member.model.blocks],
            "equalize": member.model.equalize,
            "dtype": jnp.dtype(member.model.dtype or jnp.float32).name,
        }
        for prefix, member in _prefixed(model)
    ]
    return {
        "format": FORMAT,
        "name": model.name,
        "digest": model.digest,
        "written_by": f"PneumoJAX {__version__}",
        "preprocessing": {
            "image_size": model.image_size,
            "channels": 1,
            "resize": "bilinear, antialiased, to the square; the aspect ratio is not kept",
            "scale": "grey levels from 0 to 255, divided by 255",
            "equalization": "where a network says equalize: each level becomes the share of its image's pixels below,"
            " plus half of those at it",
        },
        "networks": networks,
        "hidden_units": HEAD_UNITS,
        "batch_norm_epsilon": EPSILON,
        "calibration": (model.site.of_val if model.site else model.calibration)._asdict(),
        "ood_score": _ood_score(model),
    } | _additions(model)


def _additions(model: TrainedModel) -> dict[str, Any]:
    """Return what the description has where the model has a guard, or is set up for a site."""
    guard = {"ood_val_share": round(1 - EXPECTED, 12)} if _is_guarded(model) else {}
    return guard | ({"site": model.site.content} if model.site else {})


def _is_guarded(model: TrainedModel) -> bool:
    return any(has_guard(member.training) for member in model.members)


def _ood_score(model: TrainedModel) -> str:
    distance = f"distance to the {K}th nearest training image, between features of unit length"
    if not _is_guarded(model):
        return distance
    return (
        f"the largest of four, each in units of its limit: {distance}; distances of shallow statistics to the training"
        " images, along their main axes and along all others; and how turned or inverted the image looks"
    )


def _prefixed(model: TrainedModel) -> list[tuple[str, Member]]:
    """Return each network with what the names of its tensors begin with: nothing if it is alone."""
    if len(model.members) == 1:
        return [("", model.members[0])]
    return [(f"{number}.", member) for number, member in enumerate(model.members)]


def is_bundle(folder: epath.Path) -> bool:
    """Whether the folder holds a bundle."""
    return (folder / WEIGHTS).is_file()


def shipped() -> dict[str, epath.Path]:
    """Return the folder of each model that comes with the package, by its name."""
    folder = epath.Path(__file__).parents[1] / "weights"
    return {path.name: path for path in sorted(folder.glob("*")) if is_bundle(path)}


def describe(folder: epath.Path) -> dict[str, Any]:
    """Read the description of a bundle.

    Raises:
      UserError: there is none, or it is of another format.
    """
    path = folder / DESCRIPTION
    try:
        if not path.is_file():  # reading a pipe may never end
            raise FileNotFoundError
        description = read_json(path)
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except (OSError, RecursionError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    return description


def read(folder: epath.Path) -> TrainedModel:
    """Read the model of a bundle, calibrated as on its val.

    Raises:
      UserError: a file is missing, damaged, or of another bundle.
    """
    description, path = describe(folder), folder / WEIGHTS
    try:
        if path.stat().length > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        weights = path.read_bytes()
        if hashlib.sha256(weights).hexdigest() != description["weights"]["sha256"]:
            raise ValueError(f"it is not the one that {DESCRIPTION} describes")
        model = _model(description, safetensors.load(weights))
    except UserError as error:  # the site's
        raise _damaged(folder / DESCRIPTION, str(error)) from None
    except (ArithmeticError, AttributeError, KeyError, OSError, SafetensorError, TypeError, ValueError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    return model


def _damaged(path: epath.Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}): export the model again, or bring the file back")


def _model(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TrainedModel:
    """Return the model that a description and its tensors make, or raise an error of many kinds."""
    size = description["preprocessing"]["image_size"]
    if type(size) is not int or not 1 <= size <= MAX_SIDE:
        raise ValueError(f"its image_size is not from 1 to {MAX_SIDE}")
    calibration = calibrations.checked(description["calibration"])
    if not description["networks"]:
        raise ValueError("it has no network")
    members = [_member(network, arrays, size) for network in description["networks"]]
    model = of_members(str(description["name"]), members, calibration, size)
    if model.digest != description["digest"]:
        raise ValueError(f"its digest is {model.digest}, not {description['digest']}")
    site = description.get("site")
    return site_file.applied(model, site_file.of_json(site), DESCRIPTION) if site else model


def _member(network: Mapping[str, Any], arrays: Mapping[str, np.ndarray], size: int) -> Member:
    blocks = tuple(Block(int(block["filters"]), float(block["dropout"])) for block in network["blocks"])
    if network["dtype"] not in ("float32", "bfloat16"):
        raise ValueError(f"it computes in {network['dtype']!r}")
    equalize = network.get("equalize", False)  # earlier exports had none
    if type(equalize) is not bool:
        raise ValueError("its equalize is neither true nor false")
    model = Classifier(blocks, equalize, dtype=jnp.dtype(network["dtype"]))
    prefix = network["prefix"]
    expected = shapes_of(blocks, size)
    found = {name: arrays[prefix + name] for name in expected}
    for name, value in found.items():
        if (value.shape, value.dtype) != (expected[name], np.float32):
            raise ValueError(f"{prefix}{name} has another shape or type")
        if not np.isfinite(value).all():
            raise ValueError(f"{prefix}{name} holds numbers that are not finite")
    features, seen = arrays[prefix + _FEATURES], arrays[_SEEN]
    shaped = features.ndim == 2 and len(features) and features.shape[1] == HEAD_UNITS
    if features.dtype != np.float32 or not shaped or not np.isfinite(features).all():
        raise ValueError(f"{prefix}{_FEATURES} holds no features")
    if seen.dtype != np.uint8 or seen.ndim != 2 or seen.shape[1:] != NONE_SEEN.shape[1:]:
        raise ValueError(f"{_SEEN} holds no hashes")
    scale, limit = float(network["scale"]), float(network["ood_limit"])
    if not (0 < scale < np.inf and 0 <= limit <= 2.01):
        raise ValueError("its scale or ood_limit is out of range")
    count = len(features)
    ids, labels = np.arange(count).astype(str), np.zeros(count, np.uint8)
    additions = {field: arrays[prefix + name] for field, name in _ADDITIONS.items() if prefix + name in arrays}
    index = Index(ids, labels, features, limit, seen, **additions)
    check_additions(index)
    if len(index.guard_center) not in (0, film_statistics.COUNT) or (
        has_guard(index) and size < film_statistics.MIN_SIZE
    ):
        raise ValueError(f"{prefix}guard.center is of other statistics, or images are too small for it")
    return Member(model, variables_of(found), index, scale)
