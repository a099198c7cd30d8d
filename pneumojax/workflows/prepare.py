"""From a config to prepared images and splits; and `--mode=prepare`, which stops there."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import numpy as np
from ml_collections import ConfigDict

from pneumojax.data import data_settings, tensorflow_import, trust
from pneumojax.data import splits as splitting
from pneumojax.data.audit import duplicates, leakage
from pneumojax.data.parallel import Watched, in_parallel
from pneumojax.data.source import Prepared, Record, Source, UnreadableImages, try_read
from pneumojax.data.sources import open_source
from pneumojax.data.store import memory
from pneumojax.data.store.builder import Means, folder_of, prepare
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_log
from pneumojax.runtime.errors import UserError, one_line
from pneumojax.runtime.files import expanded, locked
from pneumojax.runtime.signals import deferred
from pneumojax.runtime.wording import counted

Result = TypeVar("Result")


def prepare_source(config: ConfigDict) -> None:
    """Write the source's shards into the cache, where they are missing."""
    config, source = open_own(config)
    splitting.require_labels(source.records)
    prepared = prepare_own(config, source)
    images = counted(len(prepared.places), "image")
    run_log.console.print(f"Prepared: {images} of {config.model.image_size} px in {prepared.folder}")


def open_own(config: ConfigDict, labelled: bool = True) -> tuple[ConfigDict, Source]:
    """Open the config's source; return it with the config, whose places are then absolute."""
    source = open_source(config.data.source, data_settings.source_options(config), labelled)
    labels = config.data.labels and str(expanded(config.data.labels).absolute())
    return configs.with_fields(config, {"data.source": source.location, "data.labels": labels}), source


def content_of(config: ConfigDict, source: Source) -> str:
    """Return what `Prepared.content` is of a source, without writing shards: every image is read once."""
    digest = partial(_pixels_digest, source._replace(records=()), config.model.image_size)
    with watching() as watched:
        found = watched(in_parallel(digest, source.records, config.data.workers), len(source.records))
        pairs = zip(source.records, found, strict=True)
        return duplicates.content_of({record.id: digest for record, digest in pairs if isinstance(digest, bytes)})


def _pixels_digest(source: Source, size: int, record: Record) -> bytes | None:
    image = try_read(source, size, record)
    return hashlib.sha256(image.data).digest() if isinstance(image, np.ndarray) else None


def prepare_own(config: ConfigDict, source: Source) -> Prepared:
    """Prepare the source's images as shards in the cache. One process writes missing shards; others wait for it."""
    folder = folder_of(source, config.model.image_size, config.data.cache_dir)
    waiting = "Another process prepares these images: waiting for it."
    turn = locked(folder.with_name(f"{folder.name}.lock"), lambda: run_log.console.print(waiting))
    with nullcontext() if folder.exists() else turn, watching() as watched, _listing_unreadable():
        return prepare(
            source,
            size=config.model.image_size,
            cache_dir=config.data.cache_dir,
            on_error=config.data.on_error,
            means=Means(config.data.workers, config.data.beam_runner, config.data.beam_options, watched),
        )


def prepare_to_train(config: ConfigDict, source: Source) -> Prepared:
    """Prepare the images as `prepare_own` does; in memory where what writes shards is not installed."""
    if tensorflow_import.installed():
        return prepare_own(config, source)
    if config.data.resident == "never":
        raise UserError(f"--config.data.resident=never needs packages: {tensorflow_import.INSTALL}")
    with watching() as watched, _listing_unreadable():
        return memory.hold(
            source,
            size=config.model.image_size,
            on_error=config.data.on_error,
            limit=None if config.data.resident == "always" else memory.LIMIT,
            workers=config.data.workers,
            watched=watched,
        )


@contextmanager
def _listing_unreadable() -> Iterator[None]:
    """Print every image that cannot be read; the error names only a few."""
    try:
        yield
    except UnreadableImages as error:
        for id, reason in error.reasons.items():
            run_log.console.print(one_line(f"unreadable: {id}: {reason}"))
        raise


@contextmanager
def watching() -> Iterator[Watched]:
    """Watch images being read, see `run_log.reading_watch`; a signal stops between two images, or at the end."""
    watch = run_log.reading_watch()
    with deferred() as interrupted:

        def stop_if_interrupted() -> None:
            if interrupted():
                raise KeyboardInterrupt

        def stoppable(results: Iterable[Result], total: int) -> Iterator[Result]:
            for result in watch(results, total):
                stop_if_interrupted()
                yield result

        yield stoppable
        stop_if_interrupted()


def choose_splits(config: ConfigDict, source: Source, prepared: Prepared) -> tuple[splitting.Splits, list[str]]:
    """Choose the splits to train with; also return what the user must know of images, labels and splits."""
    records: Sequence[Record] = [record for record in source.records if record.id in prepared.places]
    trusted = trust.note(data_settings.weighted(config, records))
    records = data_settings.usable(config, records)
    records = leakage.tied(records, [*prepared.identical, *prepared.near_equal])
    crossing = leakage.crossing(records)
    if not config.data.allow_leakage:
        leakage.refuse(crossing)
    splits, notes = splitting.for_training(records, data_settings.carving(config))
    if config.loss.class_weights == "balanced_sites":
        notes.append("In the loss, each class of each site has the same weight in total.")
    return splits, [*remarks_on(source), _headline(prepared, crossing), *trusted, *notes]


def remarks_on(source: Source) -> list[str]:
    """Return what the user must know of the source. Names of files in it cannot become commands of a terminal."""
    return [one_line(sentence) for sentence in (source.notice, *source.remarks) if sentence]


def _headline(prepared: Prepared, crossing: Sequence[Sequence[Record]]) -> str:
    found = [f"{len(prepared.unreadable):,} unreadable"] if prepared.unreadable else []
    for groups, what in ((prepared.identical, "identical"), (prepared.near_equal, "nearly identical")):
        if groups:
            images = counted(sum(map(len, groups)), "image")
            found.append(f"{counted(len(groups), 'group')} ({images}) {what}")
    crossings = counted(len(crossing), "group") if crossing else "no group"
    found.append(f"{crossings} of one patient or picture in more than one given split")
    images = counted(len(prepared.places) + len(prepared.unreadable), "image")
    return f"Audit: {images}; {'; '.join(found)}."
