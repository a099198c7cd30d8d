"""`--mode=explain`: images -> maps by each method, as pictures and as arrays."""

import io
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pneumojax import cases, devices, evaluate, explain, faithfulness, log, metrics, models, workdirs
from pneumojax import config as configs
from pneumojax.blur import blurred
from pneumojax.data import phantom
from pneumojax.data import splits as splitting
from pneumojax.data.inputs import open_inputs
from pneumojax.data.readers import read_images
from pneumojax.data.sources import open_source
from pneumojax.errors import UserError, unknown
from pneumojax.files import csv_table, markdown_table, write_arrays, write_whole, write_whole_bytes
from pneumojax.overlay import overlay, smoothed
from pneumojax.step import init_variables
from pneumojax.trained import Trained, load

FOLDER = "explanations"


class Chosen(NamedTuple):
    """Images to explain: `name` is fit for a file name; ids (n,), images (n, size, size) uint8, labels or None."""

    name: str
    ids: Sequence[str]
    images: np.ndarray
    labels: np.ndarray | None


def explain_mode(config: ConfigDict, workdir: epath.Path, data: str | None) -> None:
    """Explains the first images at `data`; or where there is none, the worst errors on the run's foremost split.

    explanations/<name>/ gets a picture of each image and method, the maps in maps.npz, and explained.csv, which tells
    which picture is of what.

    Raises:
      UserError: there is no such method, layer, image or model.
    """
    names = methods(config)
    layout = devices.layout(jax.local_devices()[:1])
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        compiled = {name: mapping(name, trained.model, config) for name in names}
        chosen = _errors(config, workdir) if data is None else _given(config, data)
        compute = evaluate.compile_eval(layout, trained.model)

        def logits_of(images):
            return np.asarray(compute(trained.variables, images[..., None])[0])

        logits = np.concatenate([logits_of(image[None]) for image in chosen.images])
        maps = {
            name: np.stack([method(trained.variables, image) for image in chosen.images])
            for name, method in compiled.items()
        }
        if config.explanation.checks:
            _check(config, workdir, trained, compiled, logits_of)
    calibration = trained.calibration
    chances = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    folder = workdir / FOLDER / chosen.name
    rows = []
    for number, (id, image) in enumerate(zip(chosen.ids, chosen.images, strict=True)):
        stem = f"{number:03d}-{re.sub(r'[^A-Za-z0-9.]+', '_', id.rpartition('/')[2])[:80]}"
        label = "" if chosen.labels is None else int(chosen.labels[number])
        for name in names:
            picture = f"{stem}-{name}.png"
            write_whole_bytes(folder / picture, _png(overlay(image, maps[name][number])))
            rows.append((picture, id, name, chances[number], label))
    write_whole(folder / "explained.csv", csv_table(("picture", "id", "method", "probability", "label"), rows))
    arrays = {"ids": np.array(chosen.ids, str), "images": chosen.images, "probability": chances, **maps}
    write_arrays(folder / "maps.npz", arrays)
    log.console.print(
        f"{len(chosen.ids)} images explained by {', '.join(names)}: red speaks for pneumonia, blue against"
    )
    log.console.print(f"Written: {folder}")


def methods(config: ConfigDict) -> list[str]:
    """The methods that the config asks for; raises UserError for one that there is not."""
    names = list(dict.fromkeys(filter(None, config.explanation.methods.split(","))))
    for name in names:
        if name not in explain.METHODS:
            raise unknown("method", name, explain.METHODS)
    if not names:
        raise UserError(f"--config.explanation.methods is empty: choose of {', '.join(explain.METHODS)}")
    return names


def mapping(name: str, model: models.Classifier, config: ConfigDict) -> Callable[[dict, np.ndarray], np.ndarray]:
    """A method with the config's options: variables, one image (size, size) uint8 -> its map (size, size) float32.

    Raises:
      UserError: the model has no such layer, or the layer no places.
    """
    options = _options(name, model, config)
    begins = name in ("integrated-gradients", "occlusion")
    black = config.explanation.baseline == "black"

    @jax.jit
    def explained(variables, image):
        images = image[None, :, :, None].astype(jnp.float32) / 255
        baseline = {"baseline": 0.0 if black else blurred(images, faithfulness.BLUR)} if begins else {}
        with jax.default_matmul_precision("highest"):  # maps are small differences of large numbers
            return explain.METHODS[name](model, variables, images, **options, **baseline)[0]

    return lambda variables, image: np.asarray(explained(variables, image))


def _options(name: str, model: models.Classifier, config: ConfigDict) -> dict:
    """What a method takes beside model, variables, images and baseline."""
    wanted = config.explanation
    if name in ("grad-cam", "grad-cam++"):
        return {"layer": _layer(model, config)}
    if name == "integrated-gradients":
        return {"steps": wanted.steps}
    if name == "smooth-grad":
        return {"samples": wanted.samples, "noise": wanted.noise, "key": jax.random.key(config.seed)}
    return squares(config, config.model.image_size)


def squares(config: ConfigDict, size: int) -> dict[str, int]:
    """What occlusion covers at a time on images of `size`, as its `window` and `stride` in pixels."""
    shares = {"window": config.explanation.square, "stride": config.explanation.square_step}
    return {name: max(round(share * size), 1) for name, share in shares.items()}


def _layer(model: models.Classifier, config: ConfigDict) -> str:
    layer = config.explanation.layer
    if not layer:
        return explain.last_convolution(model)
    rows = {row.name: row.shape for row in models.layer_rows(model, config.model.image_size)}
    if layer not in rows:
        raise unknown("layer", layer, rows)
    if len(rows[layer]) != 3:
        raise UserError(f"layer {layer} has no height and width: choose one of a block, such as {next(iter(rows))}")
    return layer


def _given(config: ConfigDict, data: str) -> Chosen:
    inputs = open_inputs(data)
    ids = list(islice(inputs.ids, config.explanation.count))
    seen = [inputs.look(id, config.model.image_size) for id in ids]
    for id, one in zip(ids, seen, strict=True):
        if one.image is None:
            raise UserError(f"{id}: {one.problem}")
    return Chosen(inputs.name, ids, np.stack([one.image for one in seen]), None)


def _check(config: ConfigDict, workdir: epath.Path, trained: Trained, compiled: dict, logits_of: Callable) -> None:
    """Measures the methods on images of the foremost split that are called right, and writes and tells of it."""
    split, told = _foremost(workdir)
    labels, chances = told["scores"]
    right = (chances >= told["threshold"]) == labels
    each = -(-config.explanation.count // 2)
    places = np.concatenate([np.flatnonzero(right & (labels == label))[:each] for label in (0, 1)])
    if not len(places):
        raise UserError(f"no image of {split} is called right: there is nothing to check explanations on")
    ids, images = _read_own(config, workdir, split, told["ids"][places])
    masks = [None] * len(ids)
    if config.data.source == "phantom":
        masks = [
            phantom.draw(id, int(labels[place]), config.model.image_size)[1]
            for id, place in zip(ids, places, strict=True)
        ]
    start = jax.jit(lambda seed: init_variables(trained.model, config.model.image_size, seed))
    calibration = trained.calibration

    def chances_of(batch):
        return metrics.probabilities(logits_of(batch), calibration.temperature, calibration.offset)

    def drawn(method, variables, image):
        return smoothed(method(variables, image))

    def untrained(method, image, number):
        return drawn(method, start(config.seed + 1 + number), image)

    found = faithfulness.check(
        {name: partial(drawn, method, trained.variables) for name, method in compiled.items()},
        {name: partial(untrained, method) for name, method in compiled.items()},
        images,
        chances_of,
        masks,
    )
    checks = {"split": split, "images": len(ids), "epoch": trained.epoch, "methods": found}
    write_whole(workdir / faithfulness.FILE, json.dumps(checks, indent=2) + "\n")
    log.console.print(markdown_table(*faithfulness.table(checks)))
    log.console.print(f"Written: {workdir / faithfulness.FILE}")


def _errors(config: ConfigDict, workdir: epath.Path) -> Chosen:
    """The worst errors on the run's foremost split; where there is none, its first images."""
    split, told = _foremost(workdir)
    labels, _ = told["scores"]
    places = cases.worst_errors(told, config.explanation.count)
    if not len(places):
        places = np.arange(min(config.explanation.count, len(labels)))
    return Chosen(split, *_read_own(config, workdir, split, told["ids"][places]), labels[places])


def _foremost(workdir: epath.Path) -> tuple[str, dict]:
    """The run's foremost split, and what `evaluate.read` gives of it."""
    own = evaluate.read_own(workdir)
    if not own:
        raise UserError(f"{workdir} is not evaluated yet: --mode=evaluate --workdir={workdir}")
    split = splitting.foremost(own)
    return split, own[split]


def _read_own(config, workdir, split, ids) -> tuple[list[str], np.ndarray]:
    """The ids as strings, and the images of the run's own split, (k, size, size) uint8."""
    source = open_source(config.data.source, configs.source_options(config))
    found = {record.id: record for record in workdirs.own_splits(workdir, source)[split]}
    images = read_images(source, [found[str(id)] for id in ids], config.model.image_size)
    return [str(id) for id in ids], images[..., 0]


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
