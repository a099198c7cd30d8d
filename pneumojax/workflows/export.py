"""`--mode=export`: a trained model as a folder that explains itself and needs no run."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pneumojax.data.decode.images import resize
from pneumojax.export import card, card_facts, parity, stablehlo
from pneumojax.inference import bundle
from pneumojax.inference.trained_model import TrainedModel
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_identity, run_log
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError, unknown
from pneumojax.runtime.files import expanded, is_local, read_json
from pneumojax.runtime.folders import becoming_folder, refuse_unwritable
from pneumojax.runtime.signals import deferred
from pneumojax.runtime.tables import markdown_table
from pneumojax.training import checkpoint
from pneumojax.workflows import model_card, run_folder, trained_models
from pneumojax.workflows.export_films import MAX_WHOLE, Films, films
from pneumojax.workflows.run_config import read_config

SAFETENSORS, ONNX, STABLEHLO, HTML = FORMATS = ("safetensors", "onnx", "stablehlo", "html")
FILM_GRAPH, BATCH_GRAPH, FUNCTION, PAGE = "model.onnx", "model-batch.onnx", "model.stablehlo", "try.html"
PICTURES = "pictures"
_NAMES = {
    workdirs.WEIGHTS,
    bundle.DESCRIPTION,
    FILM_GRAPH,
    BATCH_GRAPH,
    FUNCTION,
    PAGE,
    workdirs.PARITY,
    PICTURES,
    card.NAME,
    card_facts.FILE,
}
_ADVICE = "choose another --config.export.output"
_LEAVE_OUT = "Leave this format out by --config.export.formats, or try other versions of JAX, onnx and onnxruntime"

Measured = dict[str, Any]  # differences from the model, by their names


def export_model(
    config: ConfigDict, workdir: epath.Path, data: str | None, *, model: epath.Path | None = None
) -> epath.Path:
    """Export the model in a folder, or else the workdir's, in the formats that the config names.

    The folder is export/ in the workdir, or where `export.output` says. It is written whole or not at all. An earlier
    export there is replaced. Each format is compared with the model, on val of the run or on the films at `data`.

    Returns:
      The folder.

    Raises:
      UserError: there is no model or no such format, there are no films, the folder holds something else or cannot be
        written, or a format differs from the model.
      KeyboardInterrupt: SIGINT or SIGTERM came; nothing is left.
    """
    formats = formats_of(config.export.formats)
    output = expanded(config.export.output) if config.export.output else workdir / workdirs.EXPORT
    output = output.resolve() if is_local(output) else output
    refuse_place(output)
    trained = _load(config, workdir, model)
    compared = films(config, workdir, model, data)
    measured: Measured = {"films": len(compared.squares), "source": compared.source, "device": jax.default_backend()}
    if decoding := _decoding(trained, compared):
        measured["decoding"] = decoding
    facts = _training(workdir, model)
    with deferred() as interrupted, becoming_folder(output) as folder:
        for name in formats:
            measured[name], more = _WRITERS[name](folder, trained, compared)
            facts |= {"formats": facts.get("formats", {}) | more}
            if interrupted():
                raise KeyboardInterrupt  # and leave nothing
        _describe(folder, trained, facts, measured, model or workdir, config)
        if HTML in formats:
            _write_page(folder, trained)
        sizes = {path.name: path.stat().length for path in sorted(folder.iterdir()) if path.is_file()}
    run_log.console.print(_summary(sizes, measured))
    run_log.console.print(f"Exported: {output}")
    return output


def formats_of(text: str) -> list[str]:
    """Return the formats that a comma-separated list names.

    Raises:
      UserError: there is no such format.
    """
    named = [name.strip() for name in text.split(",")]
    for name in named:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    return list(dict.fromkeys(named))


def refuse_place(output: epath.Path) -> None:
    """Raise UserError if an export could not be written there, or would remove what is no export."""
    if not is_local(output):
        raise UserError(f"{output} is a bucket, where no folder is written whole: {_ADVICE}, and copy it")
    refuse_unwritable(output, _ADVICE)
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"{output} is a file: {_ADVICE}")
    names = {path.name for path in output.iterdir()}
    if not names:
        return
    if strange := sorted(names - _NAMES):
        raise UserError(f"{output} holds other files, such as {strange[0]}: {_ADVICE}")
    try:
        bundle.describe(output)
    except UserError as error:
        raise UserError(f"{output} holds no export ({error}): remove it, or {_ADVICE}") from None


def _load(config: ConfigDict, workdir: epath.Path, model: epath.Path | None) -> TrainedModel:
    """Load the model calibrated as on val or at its site: users of the exported one restate its prevalence."""
    return trained_models.load_here(
        configs.with_fields(config, {"evaluation.prevalence": 0.0}), model or workdir, workdir
    )


def _training(workdir: epath.Path, model: epath.Path | None) -> dict[str, Any]:
    """Return what the description says of how the networks were trained: no path of this machine."""
    if model is not None and bundle.is_bundle(model):
        return {"training": bundle.describe(model).get("training", [])}
    folder = model or workdir
    runs = trained_models.ensemble_folders(folder) if workdirs.is_experiment(folder) else [folder]
    return {"training": [_training_of(run) for run in runs]}


def _training_of(run: epath.Path) -> dict[str, Any]:
    config = read_config(run)
    return {
        "run": run_identity.of_workdir(run).id,
        "settings": configs.effective(read_json(run / workdirs.CONFIG)),
        "epoch": checkpoint.best_facts(run, config.model)["epoch"],
        "images": run_folder.composition(run),
    }


def _decoding(model: TrainedModel, compared: Films) -> Measured | None:
    """Compare films that are decoded at full size with the same as this package reads them, JPEG perhaps in part."""
    if not compared.whole:
        return None
    full = np.stack([resize(Image.fromarray(film), model.image_size) for film in compared.whole])
    read = compared.squares[: len(full)]
    found = parity.differences(parity.of_model(model, full), parity.of_model(model, read))
    levels = np.abs(full.astype(int) - read).mean((1, 2))
    return {"films": len(full), "grey_levels": float(levels.max()), **found}


def _write_safetensors(folder: epath.Path, model: TrainedModel, compared: Films) -> tuple[Measured, dict[str, Any]]:
    """Write the weights with a description, read both, and compare."""
    for name, content in bundle.contents(model, {}).items():
        (folder / name).write_bytes(content)
    squares = compared.squares
    found = parity.differences(parity.of_model(bundle.read(folder), squares), parity.of_model(model, squares))
    parity.refuse(workdirs.WEIGHTS, found, _LEAVE_OUT)
    return found, {}


def _write_onnx(folder: epath.Path, model: TrainedModel, compared: Films) -> tuple[Measured, dict[str, Any]]:
    from pneumojax.export import onnx_parity  # onnx and what runs it take a second to import
    from pneumojax.export.onnx_graph import batch_model, film_model

    protos = {FILM_GRAPH: film_model(model), BATCH_GRAPH: batch_model(model)}
    contents = {name: proto.SerializeToString() for name, proto in protos.items()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    wholes = compared.whole or list(compared.squares[:1])
    found = onnx_parity.measure(model, protos[FILM_GRAPH], protos[BATCH_GRAPH], compared.squares, wholes)
    parity.refuse(f"the ONNX graph in {found['runtime']}", found, _LEAVE_OUT)
    return found, {name: {"sha256": _sha256(content)} for name, content in contents.items()}


def _write_stablehlo(folder: epath.Path, model: TrainedModel, compared: Films) -> tuple[Measured, dict[str, Any]]:
    """Write the function, and compare it with the model in float32, in which it computes."""
    content = stablehlo.serialized(model)
    (folder / FUNCTION).write_bytes(content)
    answers = parity.with_decisions(stablehlo.answers(content, compared.squares), model.calibration)
    found = parity.differences(answers, parity.of_model(model, compared.squares, jnp.float32))
    parity.refuse(FUNCTION, found, _LEAVE_OUT)
    return found, {FUNCTION: {"sha256": _sha256(content)} | stablehlo.describe(content)}


def _measure_page(folder: epath.Path, model: TrainedModel, compared: Films) -> tuple[Measured, dict[str, Any]]:
    """Compare the graph of the page, which `_write_page` writes when there is a model card."""
    from pneumojax.export import onnx_parity
    from pneumojax.export.onnx_graph import batch_model, film_model

    films = [*compared.whole, *compared.squares[:MAX_WHOLE]]
    found = onnx_parity.measure(model, film_model(model), batch_model(model), compared.squares[:0], films)
    parity.refuse(f"the ONNX graph in {found['runtime']}", found, _LEAVE_OUT)
    return found, {}


def _write_page(folder: epath.Path, model: TrainedModel) -> None:
    from pneumojax.export.try_page import page

    (folder / PAGE).write_bytes(page(model, (folder / card.NAME).read_text()).content)


_WRITERS: Mapping[str, Callable[[epath.Path, TrainedModel, Films], tuple[Measured, dict[str, Any]]]] = {
    SAFETENSORS: _write_safetensors,
    ONNX: _write_onnx,
    STABLEHLO: _write_stablehlo,
    HTML: _measure_page,
}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _describe(
    folder: epath.Path,
    model: TrainedModel,
    facts: Mapping[str, Any],
    measured: Measured,
    run: epath.Path,
    config: ConfigDict,
) -> None:
    """Write config.json, parity.json and the model card, which tells what the files of a run say."""
    written = folder / bundle.DESCRIPTION
    description = (read_json(written) if written.exists() else bundle.description_of(model)) | dict(facts)
    (folder / bundle.DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    (folder / workdirs.PARITY).write_text(json.dumps(measured, indent=2) + "\n")
    command = f"pneumojax --mode=export --config.export.formats={config.export.formats}"
    about = config.export.about
    of_run = model_card.facts_of(run, model, parity=measured, commands=[command], about=about, description=description)
    for name, content in model_card.files_of(of_run).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def _differences_table(measured: Measured) -> str:
    measures = ("logit", "probability", "decisions_turned", "ood_score", "map")
    rows = [
        [name, *(f"{measured[name][measure]:.2g}" if measure in measured[name] else "" for measure in measures)]
        for name in ("decoding", *FORMATS)
        if name in measured
    ]
    return markdown_table(["format", *(measure.replace("_", " ") for measure in measures)], rows)


def _summary(sizes: Mapping[str, int], measured: Measured) -> str:
    files = "\n".join(f"{name:<20}{size / 1e6:8.2f} MB" for name, size in sizes.items())
    return f"{files}\nLargest differences from the model, on {measured['films']} films:\n{_differences_table(measured)}"
