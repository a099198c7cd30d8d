"""One run in one workdir: what `--mode` does, from config and source to files."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import jax
from etils import epath
from ml_collections import ConfigDict

from pneumojax import (
    cases,
    checkpoint,
    curate,
    devices,
    evaluate,
    kernels,
    log,
    models,
    neighbours,
    processes,
    shifts,
    workdirs,
)
from pneumojax import config as configs
from pneumojax.data import splits as splitting
from pneumojax.data.readers import Split, from_source
from pneumojax.data.records import Source
from pneumojax.data.sources import open_source
from pneumojax.explanations import mapping
from pneumojax.files import csv_table, write_whole
from pneumojax.step import create_model
from pneumojax.train import train
from pneumojax.trained import load

UNREADABLE_FILE = "unreadable.csv"


def train_mode(config: ConfigDict, workdir: epath.Path) -> None:
    """Trains, or goes on, then evaluates the best checkpoint on every split there is and writes the report."""
    source = curate.open_own(config)
    workdirs.refuse_other_run(workdir, config, source)
    splitting.require_trainable(source.records)
    prepared = curate.prepare_to_train(config, source)
    records, notes = curate.choose_splits(config, source, prepared)
    if prepared.unreadable:
        notes.append(f"{len(prepared.unreadable)} unreadable images are left out: see {workdir / UNREADABLE_FILE}.")
    processes.meet()  # each machine may have prepared its own shards
    with _begun(config, workdir, source, prepared, records, notes) if processes.first() else nullcontext():
        _train(config, workdir, source, prepared, records, notes)


@contextmanager
def _begun(config, workdir, source, prepared, records, notes) -> Iterator[None]:
    """Holds the workdir, which tells of the run from the beginning."""
    with workdirs.alone(workdir):
        workdirs.refuse_other_run(workdir, config, source)  # which may have begun since
        workdirs.claim(workdir, config, records, source, notes)
        if prepared.unreadable:
            write_whole(workdir / UNREADABLE_FILE, csv_table(("id", "reason"), prepared.unreadable.items()))
        yield


def _train(config, workdir, source, prepared, records, notes) -> None:
    for sentence in notes:
        log.console.print(sentence)
    log.console.print(models.layer_table(create_model(config), config.model.image_size))
    log.console.print(f"Computing on {devices.told()}.")
    if jax.default_backend() == "cpu" and not kernels.load():
        log.console.print("With CPU kernels, training is several times as fast: python -m pneumojax.kernels.build")
    splits = {name: prepared.split(name, members) for name, members in records.items()}
    trained = train(config, workdir, splits, devices.layout())
    if not any(processes.anywhere(trained or not _complete(workdir, config, splits))):
        log.console.print(f"This run is complete: {workdir}; choose another --workdir to train anew.")
        return
    _evaluate(config, workdir, source, splits, prefix="")


def evaluate_mode(config: ConfigDict, workdir: epath.Path, data: str | None) -> list[str]:
    """Evaluates the best checkpoint on another source as it lies there, or on the run's own splits.

    Returns:
      The stems of the files in evaluation/ that were written.
    """
    saved = workdirs.read_config(workdir)
    options = configs.source_options(config)
    elsewhere = data is not None and str(epath.Path(data).expanduser().resolve()) != saved.data.source
    if elsewhere and options.labels == saved.data.labels:  # which are those of the run's own images
        options = options._replace(labels="")
    source = open_source(saved.data.source if data is None else data, options)
    own = source.location == saved.data.source
    config.data.source = saved.data.source
    workdirs.refuse_other_settings(workdir, config, ("model.", "seed=", "data.") if own else ("model.",))
    splitting.require_labels(source.records)
    records = workdirs.own_splits(workdir, source) if own else splitting.as_given(source.records)
    for sentence in curate.said_of(source) + (workdirs.changed(workdir, source) if own else []):
        log.console.print(sentence)
    splits = {name: from_source(source, name, records[name], config.model.image_size) for name in records}
    prefix = "" if own else f"{source.name}-"
    _evaluate(config, workdir, source, splits, prefix)
    return [prefix + name for name in splits]


def _complete(workdir: epath.Path, config: ConfigDict, splits: dict[str, Split]) -> bool:
    """Whether every split was evaluated by the best checkpoint, and the report written."""
    best = checkpoint.best_facts(workdir, config.model)["epoch"]
    evaluated = evaluate.read(workdir)
    shifted = evaluate.shifts_file(workdir, splitting.foremost(splits))
    done = _report_file(workdir).exists() and (shifted.exists() or not config.evaluation.shifts)
    return done and all(evaluated.get(name, {}).get("epoch") == best for name in splits)


def _report_file(workdir: epath.Path) -> epath.Path:
    from pneumojax import report  # not above: what draws takes half a second to import

    return workdir / report.FILE


def _evaluate(config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split], prefix: str) -> None:
    """Evaluates the splits; and of the run's own source, which has no prefix, writes index and report."""
    layout = devices.layout()
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
        evaluator = evaluate.Evaluator(trained.model, layout, config.evaluation.batch_size)
        told = {"source": source.location, "epoch": trained.epoch}
        told |= {"notice": source.notice} if source.notice else {}
        features = {}
        for name, split in splits.items():
            evaluate.refuse_other_source(workdir, prefix + name, source.location)
            logits, features[name] = evaluator.outputs(trained.variables, split)
            if processes.first():
                if not prefix:
                    _report_file(workdir).unlink(missing_ok=True)  # written last, it tells that all before it is done
                summary = evaluate.write(workdir, prefix + name, split, logits, trained.calibration, told)
                log.console.print(evaluate.line(prefix + name, summary))
        if config.evaluation.shifts:
            name = splitting.foremost(splits)
            _evaluate_shifts(workdir, prefix + name, splits[name], evaluator, trained)
    log.console.print(f"Written: {workdir / evaluate.FOLDER}")
    if processes.first() and not prefix:
        own = splits["train"]
        index = neighbours.build(own.ids, own.labels, features["train"], features["val"])
        neighbours.write(workdir, index)
        # No longer the job's: what follows is computed on this process's own device.
        trained = trained._replace(variables=jax.device_get(trained.variables))
        errors = _errors(config, workdir, splits, features, index, trained)
        _report(config, workdir, source, splits, errors)


def _errors(config, workdir, splits, features, index, trained) -> list[cases.Case]:
    """The worst of the foremost split."""
    name = splitting.foremost(splits)
    told = evaluate.read(workdir)[name]
    explain = partial(mapping(cases.METHOD, trained.model, config), trained.variables)
    return cases.build(told, splits[name], features[name], index, splits["train"], explain)


def _evaluate_shifts(workdir, stem, split, evaluator, trained) -> None:
    """Evaluates the split as it is and under each of `shifts.SHIFTS`."""
    seen = {shifts.CLEAN: split} | {name: shifts.shifted(split, name) for name in shifts.SHIFTS}
    summaries = {}
    for name, changed in seen.items():
        logits = evaluator.outputs(trained.variables, changed).logits
        summaries[name] = evaluate.summarize(split.labels, logits, trained.calibration)
        log.console.print(evaluate.line(f"{stem} {name}", summaries[name]))
    if processes.first():
        evaluate.write_shifts(workdir, stem, summaries)


def _report(config, workdir, source, splits, errors) -> None:
    from pneumojax import report  # see `_report_file`

    samples = [
        (name, label, str(split.ids[i]), split.read([i])[0, :, :, 0])
        for name, split in splits.items()
        for label in (0, 1)
        for i in (split.labels == label).nonzero()[0][: report.SAMPLES_PER_CLASS]
    ]
    table = models.layer_table(create_model(config), config.model.image_size)
    path = report.write(workdir, layer_table=table, samples=samples, errors=errors, notice=source.notice)
    log.console.print(f"Report: {path}")
