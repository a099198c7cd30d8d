"""One run in one workdir: what `--mode` does, from config and source to files."""

from functools import partial

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax import checkpoint, devices, evaluate, log, models, report, workdirs
from pneumojax import config as configs
from pneumojax.data import audit, audit_page, leakage
from pneumojax.data import splits as splitting
from pneumojax.data.readers import Split, from_source, try_read
from pneumojax.data.records import Record, Source
from pneumojax.data.sources import open_source
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.data.workers import in_parallel
from pneumojax.files import csv_table, write_whole
from pneumojax.step import create_model, init_variables
from pneumojax.train import train

UNREADABLE_FILE = "unreadable.csv"


def audit_mode(config: ConfigDict, workdir: epath.Path) -> int:
    """Looks for what is wrong with the source's images and splits; the exit status is 1 where anything is."""
    source = open_source(config.data.source, configs.source_options(config))
    for sentence in _said_of(source):
        log.console.print(sentence)
    look = partial(audit.examine, source._replace(records=()))
    facts = in_parallel(look, source.records, config.data.workers)
    found = audit.audit(source, log.watching()(facts, len(source.records)))
    records = {record.id: record for record in source.records}
    page = audit_page.write(workdir, found, lambda id: _thumbnail(source, records[id]))
    log.console.print(audit.headline(found))
    log.console.print(f"Written: {page}")
    return 1 if found["findings"] else 0


def _thumbnail(source: Source, record: Record) -> np.ndarray | None:
    image = try_read(source, audit_page.SIDE, record)
    return None if isinstance(image, UnreadableImage) else image


def prepare_mode(config: ConfigDict) -> None:
    """Writes the source's shards into the cache, where they are missing."""
    source = _open_own(config)
    prepared = _prepare(config, source)
    log.console.print(f"Prepared: {len(prepared.places):,} images of {config.model.image_size} px in {prepared.folder}")


def train_mode(config: ConfigDict, workdir: epath.Path) -> None:
    """Trains, or goes on, then evaluates the best checkpoint on every split there is and writes the report."""
    source = _open_own(config)
    workdirs.refuse_other_run(workdir, config, source)
    splitting.require_trainable(source.records)
    prepared = _prepare(config, source)
    records, notes = _choose(config, source, prepared)
    workdirs.claim(workdir, config, records, source)
    if prepared.unreadable:
        write_whole(workdir / UNREADABLE_FILE, csv_table(("id", "reason"), prepared.unreadable.items()))
        notes.append(f"{len(prepared.unreadable)} unreadable images are left out: see {workdir / UNREADABLE_FILE}.")
    for sentence in notes:
        log.console.print(sentence)
    log.console.print(models.layer_table(create_model(config), config.model.image_size))
    splits = {name: prepared.split(name, members) for name, members in records.items()}
    trained = train(config, workdir, splits, devices.layout())
    if not trained and _complete(workdir, config, splits):
        log.console.print(f"This run is complete: {workdir}; choose another --workdir to train anew.")
        return
    _evaluate(config, workdir, source, splits, prefix="")
    _report(config, workdir, source, splits)


def evaluate_mode(config: ConfigDict, workdir: epath.Path, data: str | None) -> None:
    """Evaluates the best checkpoint on another source as it lies there, or on the run's own splits."""
    saved = workdirs.read_config(workdir)
    source = open_source(saved.data.source if data is None else data, configs.source_options(config))
    own = source.location == saved.data.source
    config.data.source = saved.data.source
    workdirs.refuse_other_settings(workdir, config, ("model.", "seed=", "data.") if own else ("model.",))
    records = workdirs.own_splits(workdir, source) if own else splitting.as_given(source.records)
    for sentence in _said_of(source):
        log.console.print(sentence)
    splits = {name: from_source(source, name, records[name], config.model.image_size) for name in records}
    _evaluate(config, workdir, source, splits, prefix="" if own else f"{source.name}-")
    if own:
        _report(config, workdir, source, splits)


def _open_own(config: ConfigDict) -> Source:
    source = open_source(config.data.source, configs.source_options(config))
    config.data.source = source.location
    return source


def _prepare(config: ConfigDict, source: Source):
    from pneumojax.data.prepare import Means, prepare  # it imports TFDS, which evaluating does without

    return prepare(
        source,
        size=config.model.image_size,
        cache_dir=config.data.cache_dir,
        on_error=config.data.on_error,
        means=Means(config.data.workers, config.data.beam_runner, config.data.beam_options, log.watching()),
    )


def _choose(config: ConfigDict, source: Source, prepared) -> tuple[splitting.Splits, list[str]]:
    """The splits to train with, and what the user must know of images, labels and splits."""
    records = [record for record in source.records if record.id in prepared.places]
    if wanted := configs.subset(config):
        records = splitting.subset(records, wanted, config.seed)
    records = leakage.tied(records, [*prepared.identical, *prepared.near_equal])
    crossing = leakage.crossing(records)
    if not config.data.allow_leakage:
        leakage.refuse(crossing)
    splits, notes = splitting.for_training(
        records,
        seed=config.seed,
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
    )
    return splits, [*_said_of(source), _headline(prepared, crossing), *notes]


def _said_of(source: Source) -> list[str]:
    return [*filter(None, (source.notice, *source.remarks))]


def _headline(prepared, crossing) -> str:
    told = [f"{len(prepared.unreadable):,} unreadable"] if prepared.unreadable else []
    for groups, what in ((prepared.identical, "identical"), (prepared.near_equal, "nearly identical")):
        if groups:
            told.append(f"{len(groups):,} groups ({sum(map(len, groups)):,} images) {what}")
    told.append(f"{len(crossing) or 'no'} patients or pictures in more than one given split")
    return f"Audit: {len(prepared.places) + len(prepared.unreadable):,} images; {'; '.join(told)}."


def _complete(workdir: epath.Path, config: ConfigDict, splits: dict[str, Split]) -> bool:
    """Whether every split was evaluated by the best checkpoint, and the report written."""
    best = checkpoint.best_facts(workdir, config.model)["epoch"]
    evaluated = evaluate.read(workdir)
    return (workdir / report.FILE).exists() and all(evaluated.get(name, {}).get("epoch") == best for name in splits)


def _evaluate(config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split], prefix: str) -> None:
    layout = devices.layout()
    model = create_model(config)
    shapes = jax.eval_shape(lambda: init_variables(model, config.model.image_size, config.seed))
    with jax.set_mesh(layout.mesh):
        variables, facts = checkpoint.restore_best(workdir, config.model, shapes, layout)
        evaluator = evaluate.Evaluator(model, layout, config.evaluation.batch_size)
        for name, split in splits.items():
            logits = evaluator.logits(variables, split)
            summary = evaluate.write(workdir, prefix + name, split, logits, facts, source.notice)
            log.console.print(evaluate.line(prefix + name, summary))
    log.console.print(f"Written: {workdir / evaluate.FOLDER}")


def _report(config: ConfigDict, workdir: epath.Path, source: Source, splits: dict[str, Split]) -> None:
    samples = [
        (name, label, str(split.ids[i]), split.read([i])[0, :, :, 0])
        for name, split in splits.items()
        for label in (0, 1)
        for i in (split.labels == label).nonzero()[0][: report.SAMPLES_PER_CLASS]
    ]
    table = models.layer_table(create_model(config), config.model.image_size)
    path = report.write(workdir, layer_table=table, samples=samples, notice=source.notice)
    log.console.print(f"Report: {path}")
