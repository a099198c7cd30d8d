"""`--mode=evaluate`: from a checkpoint and splits to metrics, the index of training images, and the report."""

from functools import partial

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.data import data_settings
from pneumojax.data import splits as splitting
from pneumojax.data.source import Source, Split, from_source
from pneumojax.data.sources import open_source
from pneumojax.evaluation import corruptions, forward, neighbours, results
from pneumojax.inference import worst_errors
from pneumojax.inference.explainer import explainer
from pneumojax.inference.restore import Trained, load
from pneumojax.inference.worst_errors import WorstError
from pneumojax.models.classifier import create_model
from pneumojax.models.summary import layer_table
from pneumojax.runtime import config as configs
from pneumojax.runtime import distributed, run_log, sharding
from pneumojax.runtime import workdir as workdirs
from pneumojax.workflows import run_folder
from pneumojax.workflows.prepare import remarks_on
from pneumojax.workflows.run_config import read_config


def evaluate_run(config: ConfigDict, workdir: epath.Path, data: str | None) -> list[str]:
    """Evaluate the best checkpoint on another source as it is, or on the run's own splits.

    Return the stems of the files that it writes in evaluation/.
    """
    saved = read_config(workdir)
    options = data_settings.source_options(config)
    elsewhere = data is not None and str(epath.Path(data).expanduser().resolve()) != saved.data.source
    if elsewhere and options.labels == saved.data.labels:  # they are the labels of the run's own images
        options = options._replace(labels="")
    source = open_source(saved.data.source if data is None else data, options)
    own = source.location == saved.data.source
    config = configs.with_fields(config, {"data.source": saved.data.source})
    run_folder.refuse_other_settings(workdir, config, ("model.", "seed=", "data.") if own else ("model.",))
    splitting.require_labels(source.records)
    records = run_folder.own_splits(workdir, source) if own else splitting.as_given(source.records)
    for sentence in remarks_on(source) + (run_folder.changed(workdir, source) if own else []):
        run_log.console.print(sentence)
    splits = {name: from_source(source, name, records[name], config.model.image_size) for name in records}
    prefix = "" if own else f"{source.name}-"
    evaluate_splits(config, workdir, source, splits, prefix)
    return [prefix + name for name in splits]


def evaluate_splits(
    config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split], prefix: str
) -> None:
    """Evaluate the splits. Of the run's own source, which has no prefix, also write the index and the report."""
    layout = sharding.layout()
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        evaluator = forward.Evaluator(trained.model, layout, config.evaluation.batch_size)
        origin = {"source": source.location, "epoch": trained.epoch}
        origin |= {"notice": source.notice} if source.notice else {}
        features = {}
        for name, split in splits.items():
            results.refuse_other_source(workdir, prefix + name, source.location)
            with run_log.images_bar(f"evaluate {name}", len(split.ids)) as advance:
                logits, features[name] = evaluator.outputs(trained.variables, split, after_batch=advance)
            if distributed.first():
                if not prefix:
                    (workdir / workdirs.REPORT).unlink(missing_ok=True)  # written last: all before it is done then
                summary = results.write(workdir, prefix + name, split, logits, trained.calibration, origin)
                run_log.console.print(results.describe(prefix + name, summary))
        if config.evaluation.corruptions:
            name = splitting.foremost(splits)
            _evaluate_corruptions(workdir, prefix + name, splits[name], evaluator, trained)
    run_log.console.print(f"Written: {workdir / workdirs.EVALUATION}")
    if distributed.first() and not prefix:
        _write_index_and_report(config, workdir, source, splits, features, trained)


def _evaluate_corruptions(
    workdir: epath.Path, stem: str, split: Split, evaluator: forward.Evaluator, trained: Trained
) -> None:
    """Evaluate the split as it is, and under each of `corruptions.CORRUPTIONS`."""
    seen = {corruptions.CLEAN: split}
    seen |= {name: corruptions.corrupted(split, name) for name in corruptions.CORRUPTIONS}
    logits = {name: evaluator.outputs(trained.variables, changed).logits for name, changed in seen.items()}
    summaries = {name: results.summarize(split.labels, logits[name], trained.calibration) for name in seen}
    run_log.console.print(results.corruptions_table(stem, summaries))
    if distributed.first():
        results.write_corruptions(workdir, stem, summaries)


def _write_index_and_report(
    config: ConfigDict,
    workdir: epath.Path,
    source: Source,
    splits: dict[str, Split],
    features: dict[str, np.ndarray],
    trained: Trained,
) -> None:
    train, foremost = splits["train"], splitting.foremost(splits)
    index = neighbours.build(train.ids, train.labels, features["train"], features["val"])
    neighbours.write(workdir, index)
    # From here on this process alone computes, on its own device.
    explain = partial(explainer(worst_errors.METHOD, trained.model, config), jax.device_get(trained.variables))
    evaluation = results.read(workdir)[foremost]
    errors = worst_errors.collect(evaluation, splits[foremost], features[foremost], index, train, explain)
    _write_report(config, workdir, source, splits, errors)


def _write_report(
    config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split], errors: list[WorstError]
) -> None:
    from pneumojax.reports import run_report  # not above: what draws takes half a second to import

    samples = [
        (name, label, str(split.ids[i]), split.read(np.array([i]))[0, :, :, 0])
        for name, split in splits.items()
        for label in (0, 1)
        for i in (split.labels == label).nonzero()[0][: run_report.SAMPLES_PER_CLASS]
    ]
    path = run_report.write(
        workdir,
        layer_table=layer_table(create_model(config), config.model.image_size),
        samples=samples,
        errors=errors,
        composition=run_folder.composition(workdir),
        remarks=run_folder.remarks(workdir),
        notice=source.notice,
    )
    run_log.console.print(f"Report: {path}")
