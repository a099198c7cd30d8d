"""What is done with images before there is a model: they are looked at, prepared, and divided into splits."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax import config as configs
from pneumojax import log
from pneumojax.data import audit, audit_page, leakage, memory, quiet_tensorflow
from pneumojax.data import splits as splitting
from pneumojax.data.prepare import Means, folder_of, prepare
from pneumojax.data.prepared import Prepared
from pneumojax.data.readers import UnreadableImages, try_read
from pneumojax.data.records import Record, Source
from pneumojax.data.sources import open_source
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.data.workers import in_parallel
from pneumojax.errors import UserError, one_line
from pneumojax.files import locked
from pneumojax.interrupt import deferred


def audit_mode(config: ConfigDict, workdir: epath.Path) -> int:
    """Looks for what is wrong with the source's images and splits; the exit status is 1 where anything is."""
    source = open_own(config)
    audit_page.refuse_other_source(workdir, source.location)
    for sentence in said_of(source):
        log.console.print(sentence)
    look = partial(audit.examine, source._replace(records=()))
    with _watching() as watched:
        facts = watched(in_parallel(look, source.records, config.data.workers), len(source.records))
        found = audit.audit(source, facts)
    records = {record.id: record for record in source.records}
    refused = {id for one in found["findings"] if one["kind"] in ("unreadable", "truncated") for id in one["ids"]}
    page = audit_page.write(workdir, found, lambda id: None if id in refused else _thumbnail(source, records[id]))
    log.console.print(audit.headline(found))
    log.console.print(f"Written: {page}")
    return 1 if found["findings"] else 0


def _thumbnail(source: Source, record: Record) -> np.ndarray | None:
    image = try_read(source, audit_page.SIDE, record)
    return None if isinstance(image, UnreadableImage) else image


def prepare_mode(config: ConfigDict) -> None:
    """Writes the source's shards into the cache, where they are missing."""
    source = open_own(config)
    splitting.require_labels(source.records)
    prepared = prepare_own(config, source)
    log.console.print(f"Prepared: {len(prepared.places):,} images of {config.model.image_size} px in {prepared.folder}")


def open_own(config: ConfigDict) -> Source:
    source = open_source(config.data.source, configs.source_options(config))
    config.data.source = source.location
    if config.data.labels:
        config.data.labels = str(epath.Path(config.data.labels).expanduser().absolute())
    return source


def prepare_own(config: ConfigDict, source: Source) -> Prepared:
    """The source's images in shards in the cache, which one process writes where they are missing; others wait."""
    means = (config.data.workers, config.data.beam_runner, config.data.beam_options)
    folder = folder_of(source, config.model.image_size, config.data.cache_dir)
    turn = locked(folder.with_name(f"{folder.name}.lock"), _tell_of_waiting)
    with nullcontext() if folder.exists() else turn, _watching() as watched, _listing_unreadable():
        return prepare(
            source,
            size=config.model.image_size,
            cache_dir=config.data.cache_dir,
            on_error=config.data.on_error,
            means=Means(*means, watched),
        )


def _tell_of_waiting() -> None:
    log.console.print("Another process prepares these images: waiting for it.")


def prepare_to_train(config: ConfigDict, source: Source) -> Prepared:
    """`prepare_own`, or where what writes shards is not installed, the same images in memory."""
    if quiet_tensorflow.installed():
        return prepare_own(config, source)
    if config.data.resident == "never":
        raise UserError(f"--config.data.resident=never needs what is not installed: {quiet_tensorflow.INSTALL}")
    with _watching() as watched, _listing_unreadable():
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
    """Prints every image that cannot be read, of which the error names but a few."""
    try:
        yield
    except UnreadableImages as error:
        for id, reason in error.reasons.items():
            log.console.print(one_line(f"unreadable: {id}: {reason}"))
        raise


@contextmanager
def _watching() -> Iterator[Callable[[Iterable, int], Iterator]]:
    """`log.watching`, and a signal to stop is heeded from one image to the next, or when all is done."""
    watched = log.watching()
    with deferred() as asked:

        def stop_if_asked():
            if asked():
                raise KeyboardInterrupt

        def stoppable(results, total):
            for result in watched(results, total):
                stop_if_asked()
                yield result

        yield stoppable
        stop_if_asked()


def choose_splits(config: ConfigDict, source: Source, prepared: Prepared) -> tuple[splitting.Splits, list[str]]:
    """The splits to train with, and what the user must know of images, labels and splits."""
    records = [record for record in source.records if record.id in prepared.places]
    if wanted := configs.subset(config):
        records = splitting.subset(records, wanted, config.data.split_seed)
    records = leakage.tied(records, [*prepared.identical, *prepared.near_equal])
    crossing = leakage.crossing(records)
    if not config.data.allow_leakage:
        leakage.refuse(crossing)
    splits, notes = splitting.for_training(records, configs.carving(config))
    return splits, [*said_of(source), _headline(prepared, crossing), *notes]


def said_of(source: Source) -> list[str]:
    """What the user must know of the source; names of files in it cannot become commands of a terminal."""
    return [one_line(sentence) for sentence in (source.notice, *source.remarks) if sentence]


def _headline(prepared: Prepared, crossing) -> str:
    told = [f"{len(prepared.unreadable):,} unreadable"] if prepared.unreadable else []
    for groups, what in ((prepared.identical, "identical"), (prepared.near_equal, "nearly identical")):
        if groups:
            told.append(f"{len(groups):,} groups ({sum(map(len, groups)):,} images) {what}")
    told.append(f"{len(crossing) or 'no'} patients or pictures in more than one given split")
    return f"Audit: {len(prepared.places) + len(prepared.unreadable):,} images; {'; '.join(told)}."
