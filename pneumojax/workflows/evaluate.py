"""`--mode=evaluate`: from a checkpoint and splits to metrics, the index of training images, and the report."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import data_settings
from pneumojax.data import splits as splitting
from pneumojax.data.source import Record, Source, Split, at, from_source
from pneumojax.data.sources import open_source, sites
from pneumojax.evaluation import corruptions, film_statistics, forward, guard, known_pictures, neighbours, results
from pneumojax.evaluation.calibration import Calibration, at_prevalence
from pneumojax.inference import attribution_places, predictions, report_pictures, site_file, worst_errors
from pneumojax.inference.attribution_places import Explain
from pneumojax.inference.explainer import explainer
from pneumojax.inference.report_pictures import SAMPLES_PER_CLASS, Sample
from pneumojax.inference.restore import Trained, load
from pneumojax.inference.trained_model import Member, of_members
from pneumojax.models.architectures import HEAD_UNITS
from pneumojax.models.configured import create_model
from pneumojax.models.summary import layer_table
from pneumojax.runtime import config as configs
from pneumojax.runtime import distributed, run_identity, run_log, sharding
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import read_json
from pneumojax.workflows import run_folder
from pneumojax.workflows.prepare import remarks_on
from pneumojax.workflows.run_config import read_config
from pneumojax.workflows.trained_models import load_model
from pneumojax.workflows.worst_group import with_operating_points


def evaluate_run(config: ConfigDict, workdir: epath.Path, data: str | None) -> list[str]:
    """Evaluate the best checkpoint on another source as it is, or on the run's own splits.

    Return the stems of the files that it writes in evaluation/.
    """
    saved = read_config(workdir)
    source = _open(saved, config, data)
    unmoved = source.location == saved.data.source
    own = unmoved or run_folder.is_moved(workdir, config, source)
    if own and config.site:
        raise UserError(f"--config.site={config.site} is for films from there: name them with --data, or leave it out")
    place = {"data.source": saved.data.source} | ({"data.labels": saved.data.labels} if own else {})
    config = configs.with_fields(config, place)
    run_folder.refuse_other_settings(workdir, config, ("model.", "seed=", "data.") if own else ("model.",))
    splitting.require_labels(source.records)
    records = run_folder.own_splits(workdir, source) if own else splitting.as_given(source.records)
    for sentence in remarks_on(source) + (run_folder.changed(workdir, source) if unmoved else []):
        run_log.console.print(sentence)
    splits = {name: from_source(source, name, records[name], config.model.image_size) for name in records}
    prefix = "" if own else f"{_name_of(workdir, source)}-"
    evaluate_splits(config, workdir, source, splits, prefix)
    return [prefix + name for name in splits]


def _name_of(workdir: epath.Path, source: Source) -> str:
    """Return the name of another source's evaluations. 0.1 recorded its place in them alone."""
    for path in (workdir / workdirs.EVALUATION).glob(f"{source.name}-*.json"):
        with suppress(AttributeError, OSError, ValueError):
            if isinstance(place := read_json(path).get("source"), str):
                run_folder.name_of(workdir, workdirs.EVALUATION, source.name, place)
    return run_folder.name_of(workdir, workdirs.EVALUATION, source.name, source.location)


def _open(saved: ConfigDict, config: ConfigDict, data: str | None) -> Source:
    """Open the source at `data`; without it, the run's own, as its `saved` config names it."""
    options = data_settings.source_options(config)
    if data is None:
        return run_folder.open_own(saved.data.source, options)
    elsewhere = sites.absolute(data) != saved.data.source
    if elsewhere and options.labels == saved.data.labels:  # they are the labels of the run's own images
        options = options._replace(labels="")
    return open_source(data, options)


def records_of(config: ConfigDict, workdir: epath.Path, data: str | None) -> dict[str, Record]:
    """Return the records, by id, of the source that `evaluate_run` evaluates."""
    return {record.id: record for record in _open(read_config(workdir), config, data).records}


def evaluate_splits(
    config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split], prefix: str
) -> None:
    """Evaluate the splits, and write the report. Of the run's own source, which has no prefix, also write the index."""
    layout = sharding.layout()
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        evaluator = forward.Evaluator(trained.model, layout, config.evaluation.batch_size)
        origin = {"source": source.location, "epoch": trained.epoch, "run": run_identity.of_workdir(workdir).id}
        origin |= {"notice": source.notice} if source.notice else {}
        index = neighbours.read(workdir, HEAD_UNITS) if prefix else None
        if not prefix:
            choice = config.evaluation.operating_points
            trained = with_operating_points(choice, workdir, splits["val"], evaluator, trained)
        site = _site(config, workdir, trained, index) if config.site and index is not None else None
        calibration = at_prevalence(site.calibration if site else trained.calibration, config.evaluation.prevalence)
        origin |= {"site": f"{site.name} {site.date}"} if site else {}
        outputs, hashed = {}, {name: known_pictures.hashing(split) for name, split in splits.items()}
        for name, split in splits.items():
            with run_log.images_bar(f"evaluate {name}", len(split.ids)) as advance:
                outputs[name] = evaluator.outputs(trained.variables, hashed[name].split, after_batch=advance)
            if distributed.first():
                if not prefix:
                    (workdir / workdirs.REPORT).unlink(missing_ok=True)  # written last: all before it is done then
                facts = origin | ({} if index is None else _strange(index, outputs[name].features, hashed[name]))
                facts |= _set_by(site.facts if site else {}, hashed[name])
                written = results.write(workdir, prefix + name, split, outputs[name].logits, calibration, facts)
                show(prefix + name, written)
        if config.evaluation.corruptions:
            name = splitting.foremost(splits)
            _evaluate_corruptions(workdir, prefix + name, splits[name], evaluator, trained, calibration)
    run_log.console.print(f"Written: {workdir / workdirs.EVALUATION}")
    if distributed.first():
        # From here on this process alone computes, on its own device.
        explain = partial(explainer(worst_errors.METHOD, trained.model, config), jax.device_get(trained.variables))
        if not prefix:
            _write_index_and_pictures(workdir, splits, outputs, hashed, explain)
        _write_places(workdir, prefix, splits, explain)
        pictures = report_pictures.read(workdir)
        if pictures is None:  # a report that 0.1 wrote has pictures, and would lose them
            run_log.console.print(
                f"The report lacks these scores: run --mode=evaluate --workdir={workdir} to add them."
            )
        else:
            _write_report(config, workdir, pictures)


def _site(config: ConfigDict, workdir: epath.Path, trained: Trained, index: neighbours.Index) -> site_file.SiteFile:
    """Read the file of the config's site, which must be of this model."""
    path = site_file.found(config.site, [workdir])
    members = [Member(trained.model, trained.variables, index)]
    model = of_members(config.model.name, members, trained.calibration, config.model.image_size)
    site = site_file.read(path)
    site_file.applied(model, site, str(path))
    return site


def _set_by(content: Mapping[str, Any], hashed: known_pictures.Hashing) -> dict[str, int]:
    """Count the images that set the operating points of a site, whose file has this content."""
    films = site_file.labelled_films(content)
    if not len(films):
        return {}
    return {"site_images": int(known_pictures.known(films, known_pictures.complete(hashed)).sum())}


def show(stem: str, evaluation: results.Evaluation) -> None:
    """Print an evaluation's scores, and those of its groups."""
    run_log.console.print(results.describe(stem, evaluation))
    if table := results.groups_table(stem, evaluation):
        run_log.console.print(table)


def evaluate_model(config: ConfigDict, folder: epath.Path, workdir: epath.Path, data: str | None) -> list[str]:
    """Evaluate the model in a folder on a source as it is; write the files of its evaluation into the workdir.

    Return the stems of the files in evaluation/.

    Raises:
      UserError: there is no data, an image has no label, or the model cannot be loaded.
    """
    if data is None:
        raise UserError("give --data: a folder of images with labels, to evaluate the model on")
    source = open_source(data, data_settings.source_options(config))
    splitting.require_labels(source.records)
    for sentence in remarks_on(source):
        run_log.console.print(sentence)
    records = splitting.as_given(source.records)
    layout = sharding.layout()
    stems = []
    with jax.set_mesh(layout.mesh):
        model = load_model(config, folder, layout, workdir)
        evaluators = [forward.Evaluator(one.model, layout, config.evaluation.batch_size) for one in model.members]
        origin = {"source": source.location, "epoch": None, "model": model.name, "digest": model.digest}
        origin |= {"site": f"{model.site.name} {model.site.date}"} if model.site else {}
        origin |= {"notice": source.notice} if source.notice else {}
        for name, members in records.items():
            split = from_source(source, name, members, config.model.image_size)
            hashed, outputs = known_pictures.hashing(split), []
            with run_log.images_bar(f"evaluate {name}", len(split.ids) * len(evaluators)) as advance:
                for evaluator, member in zip(evaluators, model.members, strict=True):
                    outputs.append(evaluator.outputs(member.variables, hashed.split, after_batch=advance))
            hashes = known_pictures.complete(hashed)
            logits, _, unlike = predictions.together(outputs, model.members, statistics=hashed.statistics)
            known = known_pictures.known(predictions.seen_by(model), hashes)
            facts = origin | {"unlike_training": int(unlike.sum()), "known_images": int(known.sum())}
            facts |= _set_by(model.site.content if model.site else {}, hashed)
            stems.append(run_folder.name_of(workdir, workdirs.EVALUATION, f"{source.name}-{name}", source.location))
            if distributed.first():
                written = results.write(workdir, stems[-1], split, logits, model.calibration, facts)
                show(stems[-1], written)
    run_log.console.print(f"Written: {workdir / workdirs.EVALUATION}")
    return stems


def _strange(index: neighbours.Index, features: np.ndarray, hashed: known_pictures.Hashing) -> dict[str, int]:
    """Count the images of another source that the model has seen, and those that are unlike all that it has seen.

    An index that 0.1 wrote does not know what the model has seen.
    """
    hashes = known_pictures.complete(hashed)
    counts = {"unlike_training": int((guard.scores(index, features, hashed.statistics) > index.limit).sum())}
    if len(index.seen):
        counts["known_images"] = int(known_pictures.known(index.seen, hashes).sum())
    return counts


def _evaluate_corruptions(
    workdir: epath.Path,
    stem: str,
    split: Split,
    evaluator: forward.Evaluator,
    trained: Trained,
    calibration: Calibration,
) -> None:
    """Evaluate the split as it is, and under each of `corruptions.CORRUPTIONS`."""
    seen = {corruptions.CLEAN: split}
    seen |= {name: corruptions.corrupted(split, name) for name in corruptions.CORRUPTIONS}
    logits = {name: evaluator.outputs(trained.variables, changed).logits for name, changed in seen.items()}
    summaries = {name: results.summarize(split.labels, logits[name], calibration) for name in seen}
    run_log.console.print(results.corruptions_table(stem, summaries))
    if distributed.first():
        results.write_corruptions(workdir, stem, summaries)


def _write_index_and_pictures(
    workdir: epath.Path,
    splits: dict[str, Split],
    outputs: dict[str, forward.Outputs],
    hashed: dict[str, known_pictures.Hashing],
    explain: Explain,
) -> None:
    places, foremost = neighbours.places(len(splits["train"].ids)), splitting.foremost(splits)
    indexed = at(splits["train"], places)
    index = _index(splits, outputs, hashed, places)
    neighbours.write(workdir, index)
    evaluation = results.read(workdir)[foremost]
    features = outputs[foremost].features
    errors = worst_errors.collect(evaluation, splits[foremost], features, index, indexed, explain)
    samples = [
        Sample(name, label, str(split.ids[i]), split.read(np.array([i]))[0, :, :, 0])
        for name, split in splits.items()
        for label in (0, 1)
        for i in (split.labels == label).nonzero()[0][:SAMPLES_PER_CLASS]
    ]
    report_pictures.write(workdir, report_pictures.Pictures(samples, errors))


def _write_places(workdir: epath.Path, prefix: str, splits: dict[str, Split], explain: Explain) -> None:
    """Measure where the attributions of the foremost split lie, site by site."""
    name = splitting.foremost(splits)
    evaluation = results.read(workdir)[prefix + name]
    found = attribution_places.measure(evaluation, splits[name], explain)
    attribution_places.write(workdir, prefix + name, found, worst_errors.METHOD)


def _index(
    splits: dict[str, Split],
    outputs: dict[str, forward.Outputs],
    hashed: dict[str, known_pictures.Hashing],
    places: np.ndarray,
) -> neighbours.Index:
    """Return the index of the images at these places of train, with the guard, and with what val scores."""
    train, val = splits["train"], splits["val"]
    seen = np.concatenate([known_pictures.complete(hashed[name]) for name in ("train", "val")])
    features, val_features = outputs["train"].features[places], outputs["val"].features
    plain = neighbours.build(train.ids[places], train.labels[places], features, val_features, seen)
    some = np.unique(np.linspace(0, len(train.ids) - 1, min(guard.TURNED, len(train.ids))).astype(int))
    turned = film_statistics.of(guard.turned(train.read(some)[..., 0]))
    measured = hashed["train"].statistics[places], hashed["val"].statistics
    index = guard.guarded(plain, *measured, val_features, turned)
    return index._replace(
        val_labels=val.labels.astype(np.uint8),
        val_logits=outputs["val"].logits,
        val_scores=guard.scores(index, val_features, hashed["val"].statistics),
    )


def _write_report(config: ConfigDict, workdir: epath.Path, pictures: report_pictures.Pictures) -> None:
    from pneumojax.reports import run_report  # not above: what draws takes half a second to import

    path = run_report.write(
        workdir,
        layer_table=layer_table(create_model(config), config.model.image_size),
        samples=pictures.samples,
        errors=pictures.errors,
        composition=run_folder.composition(workdir),
        remarks=run_folder.remarks(workdir),
        notice=next((one["notice"] for one in results.read_own(workdir).values() if "notice" in one), None),
    )
    run_log.console.print(f"Report: {path}")
