"""The Python API: `load` a trained model, then `predict`, `explain`, or use its `logits`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple, TypeGuard, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8, UInt16

from pneumojax.data.decode.unreadable import UnreadableImage, reason_of
from pneumojax.data.sources.unlabelled import Seen, look_at_array, look_at_file
from pneumojax.evaluation import calibration as calibrations
from pneumojax.evaluation.forward import eval_step
from pneumojax.inference import bundle, site_file
from pneumojax.inference.predictions import Row, rows
from pneumojax.inference.trained_model import Member, TrainedModel
from pneumojax.models.classifier import Variables
from pneumojax.runtime import allocator, cache
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError, unknown
from pneumojax.runtime.files import expanded

Path = str | os.PathLike[str]
Film = Path | UInt8[np.ndarray, "height width"] | UInt16[np.ndarray, "height width"]
Pixels = UInt8[np.ndarray, "size size"]
BATCH = 32  # images that are computed at once, where there are many
_FEW = 8  # fewer images than these are computed one by one: a padded batch would take longer
Explainer = Callable[[Variables, Pixels], Float32[np.ndarray, "size size"]]


class Map(NamedTuple):
    """An attribution map of one film.

    Attributes:
      values: positive where the film is evidence for pneumonia, in the unit of the method, see `attribution`.
      image: the square that the model saw.
      method: such as "grad-cam".
    """

    values: Float32[np.ndarray, "size size"]
    image: Pixels
    method: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a picture: the map over the film, red for pneumonia and blue against it. The suffix sets the format.

        Raises:
          UserError: the suffix names no format, or the file cannot be written.
        """
        from PIL import Image

        from pneumojax.inference.overlay import overlay

        try:
            Image.fromarray(overlay(self.image, self.values)).save(path)
        except (OSError, ValueError) as error:  # the latter is Pillow's for a suffix that it does not know
            raise UserError(
                f"cannot write {os.fspath(path)} ({reason_of(error)}): give a path such as map.png"
            ) from None


class Model:
    """A trained model. Threads may share it.

    Attributes:
      metadata: what is known of the model, as in the `config.json` of an exported one.
    """

    def __init__(self, trained: TrainedModel, metadata: Mapping[str, Any]) -> None:
        """Use `load` instead."""
        self._trained = trained
        self.metadata = dict(metadata)
        self._variables = [jax.device_put(member.variables) for member in trained.members]
        self._steps = [_compiled(member) for member in trained.members]
        self._explainers: dict[str, list[Explainer]] = {}

    @overload  # a string is a sequence of strings too: the first overload that fits counts
    def predict(  # pyright: ignore[reportOverlappingOverload]
        self, films: Film, *, bits: int | None = None, inverted: bool = False
    ) -> Row: ...
    @overload
    def predict(self, films: Sequence[Film], *, bits: int | None = None, inverted: bool = False) -> list[Row]: ...
    @overload
    def predict(self, films: Iterable[Film], *, bits: int | None = None, inverted: bool = False) -> Iterator[Row]: ...

    def predict(self, films, *, bits=None, inverted=False):  # pyright: ignore[reportInconsistentOverload]
        """Predict one film or several, as `--mode=predict` does.

        Args:
          films: a film: the path of an image file, or an array (height, width), uint8 or uint16, grey. Or several: a
            list or tuple gives a list of rows, and any other iterable an iterator, which reads films as it goes.
          bits: of arrays of uint16: how many bits are used, from 8 to 16; if None, as many as the largest value has.
          inverted: of arrays: whether 0 is white, as in DICOM's MONOCHROME1.

        Returns:
          A row for each film. One that cannot be read has an `error`, and no probability. The `id` of an array is its
          position.

        Raises:
          UserError: something is neither a path nor an array, or `bits` is out of range. An iterator raises it where it
            comes to the thing.
        """
        _require_bits(bits)
        if isinstance(films, (str, os.PathLike, np.ndarray)):
            return next(self._rows([films], bits, inverted))
        if isinstance(films, (bytes, bytearray)) or not isinstance(films, Iterable):
            raise _no_film(films)
        found = self._rows(films, bits, inverted)
        return list(found) if isinstance(films, Sequence) else found

    def explain(self, film: Film, method: str = "grad-cam", *, bits: int | None = None, inverted: bool = False) -> Map:
        """Explain one film by a method of `--mode=explain`: the mean over an ensemble's networks.

        The arguments are those of `predict`.

        Raises:
          UnreadableImage: the film cannot be read.
          UserError: there is no such method, or this is neither a path nor an array.
        """
        _require_bits(bits)
        explainers = self._explainers_of(method)
        seen = self._look(film, bits, inverted)
        if seen.image is None:
            raise UnreadableImage(f"{film}: {seen.problem}" if _is_path(film) else seen.problem)
        maps = [
            explain(variables, seen.image) / member.scale
            for explain, variables, member in zip(explainers, self._variables, self._trained.members, strict=True)
        ]
        return Map(np.mean(maps, axis=0), seen.image, method)

    @cached_property
    def logits(self) -> Callable[[Float[Array | np.ndarray, "batch height width 1"]], Float32[Array, " batch"]]:
        """The logits of images (n, size, size, 1) float in [0, 1], as a pure function, jitted and differentiable.

        Of an ensemble, the mean of the networks' logits, each divided by its temperature. They are not calibrated.
        """
        trained, variables = self._trained, self._variables

        @jax.jit
        def logits(images: Float[Array, "batch height width 1"]) -> Float32[Array, " batch"]:
            each = [
                cast(jax.Array, member.model.apply(own, images, train=False)) / member.scale
                for member, own in zip(trained.members, variables, strict=True)
            ]
            return jnp.mean(jnp.stack(each), axis=0)

        return logits

    def rows(self, batch: Sequence[tuple[str, Seen]], padded_to: int = 0) -> list[Row]:
        """Predict films that were read: a row for each id and what `look_at_file` or `look_at_array` returned.

        Args:
          batch: at most 32 films, or `padded_to`.
          padded_to: how many images are computed at once, however few films there are; 0: as many as is quick. The
            result is that of `--mode=predict` to the last bit where this is its `evaluation.batch_size`.
        """
        images = [seen.image for _, seen in batch if seen.image is not None]
        outputs = self._outputs(np.stack(images)[..., None], padded_to) if images else None
        return rows(batch, outputs, self._trained)

    @property
    def image_size(self) -> int:
        """Pixels per side of the square that the model takes."""
        return self._trained.image_size

    @property
    def site(self) -> str:
        """The name of the site that the model is set up for; empty where it is as trained."""
        return self._trained.site.name if self._trained.site else ""

    def _rows(self, films: Iterable[Film], bits: int | None, inverted: bool) -> Iterator[Row]:
        numbered = enumerate(films)
        with ThreadPoolExecutor() as pool:
            while chunk := list(islice(numbered, BATCH)):
                ids = [os.fspath(film) if _is_path(film) else str(number) for number, film in chunk]
                seen = list(pool.map(lambda pair: self._look(pair[1], bits, inverted), chunk))
                yield from self.rows(list(zip(ids, seen, strict=True)))

    def _look(self, film: Film, bits: int | None, inverted: bool) -> Seen:
        if isinstance(film, np.ndarray):
            return look_at_array(film, self._trained.image_size, bits, inverted)
        if not _is_path(film):
            raise _no_film(film)
        return look_at_file(os.fspath(film), self._trained.image_size)

    def _outputs(
        self, images: UInt8[np.ndarray, "n size size 1"], padded_to: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Compute each member's logits and features, in one batch, or one by one where images are few."""
        if padded_to or len(images) >= _FEW:
            padding = np.repeat(images[:1], (padded_to or BATCH) - len(images), axis=0)
            batches = [np.concatenate([images, padding])]
        else:
            batches = list(images[:, None])
        found = []
        for step, variables in zip(self._steps, self._variables, strict=True):
            parts = zip(*jax.device_get([step(variables, batch) for batch in batches]), strict=True)
            logits, features = (np.concatenate(part) for part in parts)
            found.append((logits, features))
        return found

    def _explainers_of(self, method: str) -> list[Explainer]:
        """Return the method for each member; compile it the first time."""
        if method not in self._explainers:
            from pneumojax.inference.attribution import METHODS  # not at the top: predicting should start soon
            from pneumojax.inference.explainer import explainer
            from pneumojax.runtime import config as configs

            if method not in METHODS:
                raise unknown("method", method, METHODS)
            config = configs.load(f"{configs.SHARED}:recommended")
            config = configs.with_fields(config, {"model.image_size": self._trained.image_size})
            self._explainers[method] = [explainer(method, one.model, config) for one in self._trained.members]
        return self._explainers[method]


def _is_path(film: object) -> TypeGuard[Path]:
    return isinstance(film, (str, os.PathLike))


def _no_film(thing: object) -> UserError:
    return UserError(f"{type(thing).__name__} is no film: give a path, or a NumPy array (height, width)")


def _require_bits(bits: int | None) -> None:
    if bits is not None and not 8 <= bits <= 16:
        raise UserError(f"{bits} bits are out of range: give from 8 to 16, or leave that out")


def _compiled(member: Member) -> Callable[[Variables, np.ndarray], tuple[jax.Array, jax.Array]]:
    return jax.jit(partial(eval_step, member.model))


def load(
    model: str | os.PathLike[str],
    *,
    prevalence: float | None = None,
    site: str | os.PathLike[str] | None = None,
    keep_freed_memory: bool = True,
    keep_compiled: bool = True,
) -> Model:
    """Load a trained model.

    Args:
      model: name of a shipped model, such as "m1"; or a folder that `--mode=export` wrote; or the workdir of a run or
        of an experiment, whose runs then form an ensemble.
      prevalence: share of pneumonia where the model is used, in (0, 1), to adapt probabilities; None: as in its val,
        or at the site.
      site: a site file of `--mode=calibrate`: its path, or its name in sites/ of the folder, or of the workdir that
        `--model` has by default.
      keep_freed_memory: whether to let this process keep the memory that it frees, where the C library is glibc.
        Without it, inference on a CPU reaches a third of the images a second.
      keep_compiled: whether to keep compiled programs in the user's cache folder, unless JAX has a place for them.

    Raises:
      UserError: there is no such model or site file, one is damaged, the site file is of another model, or the
        prevalence is out of range.
    """
    if keep_freed_memory:
        allocator.keep_freed()
    if keep_compiled:
        cache.keep_compiled("")
    if prevalence is not None and not 0 < prevalence < 1:
        raise UserError(f"a prevalence of {prevalence} is out of range: give a share between 0 and 1")
    folder = bundle.shipped().get(os.fspath(model)) or expanded(os.fspath(model))
    if bundle.is_bundle(folder):
        trained = bundle.read(folder)
        metadata = bundle.describe(folder)
    else:
        from pneumojax.workflows import trained_models  # it imports what reads checkpoints, which takes seconds

        trained = trained_models.load_alone(os.fspath(model))
        metadata = bundle.description_of(trained)
    if site is not None:
        path = site_file.found(os.fspath(site), [folder, workdirs.default_of(folder)])
        trained = site_file.applied(trained, site_file.read(path), str(path))
    calibration = calibrations.at_prevalence(trained.calibration, prevalence or 0)
    return Model(trained._replace(calibration=calibration), metadata)
