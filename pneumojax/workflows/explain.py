"""`--mode=explain`: maps of images by each method, as pictures and as arrays."""

import io
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pneumojax.data import data_settings
from pneumojax.data import splits as splitting
from pneumojax.data.source import read_images
from pneumojax.data.sources import open_source, phantom, sites
from pneumojax.data.sources.unlabelled import open_inputs
from pneumojax.evaluation import forward, metrics, results
from pneumojax.evaluation.calibration import Calibration
from pneumojax.inference import faithfulness, worst_errors
from pneumojax.inference.explainer import Explainer, explainer, methods
from pneumojax.inference.overlay import overlay, smoothed
from pneumojax.inference.trained_model import Member
from pneumojax.models.classifier import init_variables
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_log, sharding
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import ExitStatus, UserError, one_line
from pneumojax.runtime.files import expanded, write_arrays, write_whole, write_whole_bytes
from pneumojax.runtime.tables import csv_table, markdown_table
from pneumojax.runtime.wording import counted
from pneumojax.training import checkpoint
from pneumojax.workflows import run_folder
from pneumojax.workflows.trained_models import load_model

LogitsOf = Callable[[np.ndarray], np.ndarray]  # images (k, size, size) uint8 -> (k,)


class Chosen(NamedTuple):
    """Images to explain."""

    name: str  # fit for a file name
    place: str
    ids: Sequence[str]
    images: np.ndarray  # (n, size, size) uint8
    labels: np.ndarray | None  # (n,); None where nobody knows them
    unreadable: Sequence[str] = ()  # a line for each image that came before the last of these and cannot be read
    remarks: Sequence[str] = ()  # on files that are no images


def explain_images(
    config: ConfigDict, workdir: epath.Path, data: str | None, *, model: epath.Path | None = None
) -> ExitStatus:
    """Explain the first images at `data` that can be read, by the model in a folder, or else the workdir's.

    Without `data`, explain the worst errors on the foremost split of the workdir's run.

    explanations/<name>/ gets a picture of each image and method, the maps in maps.npz, and explained.csv, which lists
    the pictures.

    In an experiment's workdir, the maps are those of the ensemble's log-odds: the mean over its runs.

    Returns:
      FINDINGS where an image cannot be read.

    Raises:
      UserError: there is no such method, layer, image or model.
    """
    names = methods(config)
    own_images = model is None and not workdirs.is_experiment(workdir)
    if not own_images and (data is None or config.explanation.checks):
        holder = model or workdir
        raise UserError(
            f"{holder} holds no single run: give --data, and leave explanation.checks to the --workdir of one"
        )
    if own_images and data is not None and _is_moved_to(config, workdir, data):
        config, data = configs.with_fields(config, {"data.source": data}), None
    layout = sharding.layout(jax.local_devices()[:1])
    with jax.set_mesh(layout.mesh):
        trained = load_model(config, model or workdir, layout, workdir)
        chosen = _worst_errors(config, workdir) if data is None else _given(config, data)
        explained = []
        for member in trained.members:
            compiled = {name: explainer(name, member.model, config) for name in names}
            logits_of = _logits_of(layout, member)
            logits = np.concatenate([logits_of(image[None]) for image in chosen.images])
            maps = _maps(compiled, member, chosen.images)
            explained.append((logits / member.scale, {name: own / member.scale for name, own in maps.items()}))
            if config.explanation.checks:
                _check(config, workdir, member, trained.calibration, compiled, logits_of)
    logits = np.mean([own for own, _ in explained], axis=0)
    maps = {name: np.mean([own[name] for _, own in explained], axis=0) for name in names}
    calibration = trained.calibration
    probabilities = metrics.probabilities(logits, calibration.temperature, calibration.offset)
    folder = _write(workdir, chosen, maps, probabilities)
    run_log.console.print(f"{counted(len(chosen.ids), 'image')} explained by {', '.join(names)}.")
    run_log.console.print("Red speaks for pneumonia, blue against it.")
    for line in [*chosen.unreadable, *chosen.remarks]:
        run_log.console.print(one_line(line))
    run_log.console.print(f"Written: {folder}")
    return ExitStatus.FINDINGS if chosen.unreadable else ExitStatus.DONE


def _logits_of(layout: sharding.Layout, member: Member) -> LogitsOf:
    compute = forward.compile_eval(layout, member.model)
    return lambda images: np.asarray(compute(member.variables, images[..., None])[0])


def _maps(compiled: dict[str, Explainer], member: Member, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return each method's maps, (n, size, size) float32."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in compiled}
    with run_log.images_bar("explain", len(images) * len(compiled)) as advance:
        for name, method in compiled.items():
            for image in images:
                found[name].append(method(member.variables, image))
                advance(1)
    return {name: np.stack(own) for name, own in found.items()}


def _write(workdir: epath.Path, chosen: Chosen, maps: dict[str, np.ndarray], probabilities: np.ndarray) -> epath.Path:
    name = run_folder.name_of(workdir, workdirs.EXPLANATIONS, chosen.name, chosen.place)
    folder = workdir / workdirs.EXPLANATIONS / name
    rows = []
    for number, (id, image) in enumerate(zip(chosen.ids, chosen.images, strict=True)):
        stem = f"{number:03d}-{re.sub(r'[^A-Za-z0-9.]+', '_', id.rpartition('/')[2])[:80]}"
        label = "" if chosen.labels is None else int(chosen.labels[number])
        for name, own in maps.items():
            picture = f"{stem}-{name}.png"
            write_whole_bytes(folder / picture, _png(overlay(image, own[number])))
            rows.append((picture, id, name, probabilities[number], label))
    write_whole(folder / "explained.csv", csv_table(("picture", "id", "method", "probability", "label"), rows))
    arrays = {"ids": np.array(chosen.ids, str), "images": chosen.images, "probability": probabilities, **maps}
    write_arrays(folder / "maps.npz", arrays)
    return folder


def _is_moved_to(config: ConfigDict, workdir: epath.Path, data: str) -> bool:
    """Whether the run's own images are not where they were, but at `data`."""
    if sites.is_there(config.data.source):
        return False
    try:
        source = open_source(data, data_settings.source_options(config))
    except UserError:
        return False
    return run_folder.is_moved(workdir, config, source)


def _given(config: ConfigDict, data: str) -> Chosen:
    inputs = open_inputs(data)
    images, unreadable = {}, []
    for id in inputs.ids:
        seen = inputs.look(id, config.model.image_size)
        if seen.image is None:
            unreadable.append(f"{id}: {seen.problem}")
        else:
            images[id] = seen.image
        if len(images) == config.explanation.count:
            break
    if not images:
        raise UserError(f"no image at {data} can be read ({unreadable[0]}): give other images by --data")
    place = str(expanded(data).resolve())
    return Chosen(
        inputs.name, place, list(images), np.stack(list(images.values())), None, unreadable, inputs.left_out.remarks()
    )


def _worst_errors(config: ConfigDict, workdir: epath.Path) -> Chosen:
    """Return the worst errors on the run's foremost split; where there is no error, its first images."""
    split, evaluation = _foremost(workdir)
    labels, _ = evaluation["scores"]
    places = worst_errors.worst_errors(evaluation, config.explanation.count)
    if not len(places):
        places = np.arange(min(config.explanation.count, len(labels)))
    chosen = _read_own(config, workdir, split, evaluation["ids"][places])
    return Chosen(split, f"the run's own {split}", *chosen, labels[places])


def _foremost(workdir: epath.Path) -> tuple[str, dict]:
    """Return the name of the run's foremost split, and its evaluation, see `results.read`."""
    own = results.read_own(workdir)
    if not own:
        raise UserError(f"{workdir} has no evaluation: run --mode=evaluate --workdir={workdir} first")
    split = splitting.foremost(own)
    return split, own[split]


def _read_own(config: ConfigDict, workdir: epath.Path, split: str, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the ids as strings, and the images of the run's own split, (k, size, size) uint8."""
    source = run_folder.open_own(config.data.source, data_settings.source_options(config))
    found = {record.id: record for record in run_folder.own_splits(workdir, source).get(split, ())}
    if missing := [str(id) for id in ids if str(id) not in found]:
        raise UserError(f"{missing[0]} is not in {split}: run --mode=evaluate --workdir={workdir} again")
    images = read_images(source, [found[str(id)] for id in ids], config.model.image_size)
    return [str(id) for id in ids], images[..., 0]


def _check(
    config: ConfigDict,
    workdir: epath.Path,
    member: Member,
    calibration: Calibration,
    compiled: dict[str, Explainer],
    logits_of: LogitsOf,
) -> None:
    """Measure the methods on images of the foremost split that the model predicts correctly; write what they score."""
    split, evaluation = _foremost(workdir)
    labels, probabilities = evaluation["scores"]
    correct = (probabilities >= evaluation["threshold"]) == labels
    each = -(-config.explanation.count // 2)
    places = np.concatenate([np.flatnonzero(correct & (labels == label))[:each] for label in (0, 1)])
    if not len(places):
        raise UserError(f"the model predicts no image of {split} correctly: there is nothing to check explanations on")
    ids, images = _read_own(config, workdir, split, evaluation["ids"][places])
    start = jax.jit(lambda seed: init_variables(member.model, config.model.image_size, seed))

    def probabilities_of(batch: np.ndarray) -> np.ndarray:
        return metrics.probabilities(logits_of(batch), calibration.temperature, calibration.offset)

    def drawn(method: Explainer, variables: dict, image: np.ndarray) -> np.ndarray:
        return smoothed(method(variables, image))

    def untrained(method: Explainer, image: np.ndarray, number: int) -> np.ndarray:
        return drawn(method, start(config.seed + 1 + number), image)

    found = faithfulness.check(
        {name: partial(drawn, method, member.variables) for name, method in compiled.items()},
        {name: partial(untrained, method) for name, method in compiled.items()},
        images,
        probabilities_of,
        _lesions(config, ids, labels[places]),
        evaluation["threshold"],
    )
    epoch = checkpoint.best_facts(workdir, config.model)["epoch"]
    checks = {"split": split, "images": len(ids), "epoch": epoch, "methods": found}
    write_whole(workdir / workdirs.EXPLANATION_CHECKS, json.dumps(checks, indent=2) + "\n")
    run_log.console.print(markdown_table(*faithfulness.table(checks)))
    run_log.console.print(f"Written: {workdir / workdirs.EXPLANATION_CHECKS}")


def _lesions(config: ConfigDict, ids: Sequence[str], labels: np.ndarray) -> list[np.ndarray | None]:
    """Return each image's lesion, (size, size) bool, of phantoms; of other images, None."""
    if config.data.source != "phantom":
        return [None] * len(ids)
    size = config.model.image_size
    return [phantom.draw(id, int(label), size)[1] for id, label in zip(ids, labels, strict=True)]


def _png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
