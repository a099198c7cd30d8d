"""A trained model, ready for use: one network, or an ensemble of several."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float32

from pneumojax import __version__
from pneumojax.evaluation.calibration import Calibration
from pneumojax.evaluation.neighbours import Index
from pneumojax.models.classifier import Classifier, Variables

_DIGITS = 16  # of the digest that is shown


class Member(NamedTuple):
    """A network of a trained model.

    Attributes:
      model: the module.
      variables: its `{"params": ..., "batch_stats": ...}`.
      training: the index of its training images.
      scale: what its logits are divided by before the mean over an ensemble's members: its temperature; 1 for a network
        alone.
    """

    model: Classifier
    variables: Variables
    training: Index
    scale: float = 1.0


class SetUp(NamedTuple):
    """How a model is set up for a site, see `site_file`.

    Attributes:
      name: of the site.
      date: of its file.
      of_val: the model's own calibration, which the site's replaces.
      content: of the file, fit for JSON.
    """

    name: str
    date: str
    of_val: Calibration
    content: dict[str, Any]


class TrainedModel(NamedTuple):
    """What predicts.

    Attributes:
      name: such as "m1".
      digest: identifies weights and fitted calibration, whatever file they come from; see `digest_of`.
      members: the networks; of several, the mean of the scaled logits counts.
      calibration: of that mean, at the prevalence that the user states.
      image_size: pixels per side of the square that the networks take.
      site: how the model is set up for a site; None where it is as trained.
    """

    name: str
    digest: str
    members: Sequence[Member]
    calibration: Calibration
    image_size: int
    site: SetUp | None = None

    @property
    def version(self) -> str:
        """The version of PneumoJAX that predicts."""
        return __version__


def of_members(name: str, members: Sequence[Member], fitted: Calibration, image_size: int) -> TrainedModel:
    """Return the model of these members and the calibration fitted on val, with its digest."""
    return TrainedModel(name, digest_of(members, fitted), members, fitted, image_size)


def tensors(variables: Variables) -> dict[str, Float32[np.ndarray, "..."]]:
    """Return a network's parameters and statistics by dotted names, such as "params.conv_1.kernel", sorted."""
    return {name: np.asarray(value, np.float32) for name, value in sorted(flat(variables))}


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries with their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def variables_of(named: Mapping[str, Float32[Array | np.ndarray, "..."]]) -> Variables:
    """Return the variables whose `tensors` these are."""
    tree: Variables = {}
    for name, value in named.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree


def digest_of(members: Sequence[Member], fitted: Calibration) -> str:
    """Return the start of the SHA-256 of the networks' tensors, the scales, and the calibration as fitted on val."""
    described = [fitted._asdict(), [member.scale for member in members]]
    if any(member.model.equalize for member in members):  # else as in versions that could not
        described.append([member.model.equalize for member in members])
    digest = hashlib.sha256(json.dumps(described).encode())
    for member in members:
        for name, value in tensors(member.variables).items():
            digest.update(f"{name} {value.shape}\n".encode())
            digest.update(np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()[:_DIGITS]
