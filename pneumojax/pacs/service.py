"""`--mode=pacs`: films from a PACS, results back into it; once, or for as long as the program runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from pneumojax.api import Model
from pneumojax.data.parallel import Workers
from pneumojax.data.sources.unlabelled import look_at_array
from pneumojax.pacs import credentials, fetch, log, peer
from pneumojax.pacs.dicomweb import Archive
from pneumojax.pacs.documents import METHOD
from pneumojax.pacs.faults import Backoff, Stopped
from pneumojax.pacs.fetch import Fetching
from pneumojax.pacs.guard import Limits
from pneumojax.pacs.identity import key_of_model
from pneumojax.pacs.listen import Station, listening
from pneumojax.pacs.pacs_settings import listed, peer_in
from pneumojax.pacs.queue import Queue, opened
from pneumojax.pacs.work import Delivering, Predicting, Store, started
from pneumojax.runtime import signals
from pneumojax.runtime.errors import ExitStatus, PneumoJAXError, UserError
from pneumojax.runtime.files import expanded
from pneumojax.runtime.host import cores
from pneumojax.runtime.wording import counted

_TURN_S = 0.2
_END_S = 60.0  # that a batch, or a delivery, may take to end


class _Works(NamedTuple):
    """The two loops that run beside, and the table of films."""

    predicting: Predicting
    delivering: Delivering
    rows: log.Rows


def run_pacs(
    config: ConfigDict, workdir: epath.Path, model: Model, *, stop: Callable[[], bool] = lambda: False
) -> ExitStatus:
    """Fetch films or receive them, predict them, and bring the results into the PACS.

    Each film has a row in pacs.csv in the workdir. Without `pacs.listen`, this ends when all results are delivered.

    Args:
      config: with its `pacs` fields.
      workdir: for pacs.csv.
      model: what predicts.
      stop: whether to end as after a signal.

    Returns:
      FINDINGS where a film that was fetched has no report in the PACS.

    Raises:
      UserError: the config asks for nothing, or for what cannot be done.
      KeyboardInterrupt: SIGINT or SIGTERM came, or `stop` says so; the same command continues.
    """
    _refuse_incomplete(config)
    studies = fetch.named_studies(config)
    store = _store(config)
    batch_size, stopped = config.evaluation.batch_size, threading.Event()
    backoff = Backoff(log.say, stopped, config.pacs.retry_seconds)
    status = None
    key = key_of_model(model)
    with log.quiet(), signals.deferred() as interrupted, opened(config.pacs.queue, workdir, key) as queue:
        _warm_up(model, batch_size)
        with (
            _watched(lambda: interrupted() or stop(), stopped) as asked,
            _working(queue, model, batch_size, log.Rows(workdir), store, backoff, stopped) as works,
            suppress(Stopped),
        ):
            status = _serve(config, model, studies, queue, works, stopped)
    if asked.is_set():
        raise KeyboardInterrupt
    if status is None:
        raise PneumoJAXError("a part of the program has ended by a bug: a line above says where")
    return status


def _serve(
    config: ConfigDict, model: Model, studies: list[str], queue: Queue, works: _Works, stopped: threading.Event
) -> ExitStatus | None:
    """Do what the config asks for; return None if all stops before."""
    fetching = None
    with _maybe_listening(config, queue):
        if fetch.is_wanted(config):
            backoff = Backoff(log.say, stopped, config.pacs.retry_seconds)
            fetching = Fetching(_archive(config), queue, works.rows, model, backoff, stopped)
            fetching.all_of([*studies, *(fetching.studies(config.pacs.dates) if config.pacs.dates else [])])
        if config.pacs.listen:
            stopped.wait()
        while not (stopped.is_set() or queue.wait_until(0, _TURN_S)):
            pass
    if stopped.is_set():
        return None
    assert fetching is not None, "listening ends by a signal alone"
    missing = works.predicting.refused + works.delivering.put_aside + fetching.refused
    log.say(f"{fetching.summary()}; {counted(missing, 'film')} without a report")
    return ExitStatus.FINDINGS if missing else ExitStatus.DONE


def _refuse_incomplete(config: ConfigDict) -> None:
    """Raise UserError if the config names no films, or no place for results."""
    c = config.pacs
    if not (c.listen or fetch.is_wanted(config)):
        raise UserError("give --config.pacs.study, dates or worklist to fetch films, or listen to receive them")
    if fetch.is_wanted(config) and not c.dicomweb:
        raise UserError("films are fetched by DICOMweb: give --config.pacs.dicomweb")
    if not (c.dicomweb or c.send):
        raise UserError("results need a place: give --config.pacs.dicomweb, or --config.pacs.send=AE@HOST:PORT")
    if c.listen and not c.peers:
        raise UserError("give --config.pacs.peers: the AE titles that may send films; all others are refused")
    for name in ("ca_bundle", "client_certificate"):
        if c[name] and not expanded(c[name]).is_file():
            raise UserError(f"--config.pacs.{name}: there is no file {c[name]}")


def _archive(config: ConfigDict) -> Archive:
    c = config.pacs
    return Archive(
        c.dicomweb,
        lambda: credentials.read(c.credentials, c.dicomweb),
        ca_bundle=str(expanded(c.ca_bundle)) if c.ca_bundle else "",
        client_certificate=str(expanded(c.client_certificate)) if c.client_certificate else "",
        seconds=c.timeout,
        max_bytes=c.film_megabytes * 1_000_000,
    )


def _store(config: ConfigDict) -> Store:
    """Return what stores results."""
    c = config.pacs
    if not c.send:
        return _archive(config).store
    receiver = peer_in(c.send)
    assert receiver is not None, "the config's rules say so"
    return lambda made: peer.store(made, receiver, c.ae_title, c.timeout)


def _warm_up(model: Model, batch_size: int) -> None:
    """Compile, before films come."""
    empty = np.zeros((model.image_size, model.image_size), np.uint8)
    model.rows([("", look_at_array(empty, model.image_size))], batch_size)
    model.explain(empty, METHOD)


@contextmanager
def _watched(asked_to_stop: Callable[[], bool], stopped: threading.Event) -> Iterator[threading.Event]:
    """Stop all threads when a signal comes; yield an event that says whether one came."""
    asked = threading.Event()

    def watch() -> None:
        while not stopped.wait(_TURN_S):
            if asked_to_stop():
                asked.set()
                stopped.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        stopped.set()
        thread.join()


@contextmanager
def _working(
    queue: Queue,
    model: Model,
    batch_size: int,
    rows: log.Rows,
    store: Store,
    backoff: Backoff,
    stopped: threading.Event,
) -> Iterator[_Works]:
    """Predict and deliver while the block runs."""
    workers = Workers(cores())
    predicting = Predicting(queue, model, batch_size, workers, rows, stopped)
    delivering = Delivering(queue, store, backoff, stopped)
    threads = [started(predicting.loop, stopped), started(delivering.loop, stopped)]
    try:
        yield _Works(predicting, delivering, rows)
    finally:
        stopped.set()
        for thread in threads:
            thread.join(_END_S)
        workers.close()


@contextmanager
def _maybe_listening(config: ConfigDict, queue: Queue) -> Iterator[None]:
    """Receive films while the block runs, if the config says so."""
    c = config.pacs
    if not c.listen:
        yield
        return
    limits = Limits(
        hosts=frozenset(listed(c.hosts)),
        connections=2 * c.associations + 8,
        per_minute=c.associations_per_minute,
        pdu_bytes=c.pdu_kilobytes * 1024,
        message_bytes=c.film_megabytes * 1_000_000,
        silent_s=c.timeout,
    )
    station = Station(c.address, c.listen, c.ae_title, listed(c.peers), c.associations, c.timeout, limits)
    with listening(station, queue, log.say) as port:
        films, results = queue.counts()
        waiting = f"{counted(films, 'film')} and {counted(results, 'result')} wait"
        log.say(f"listening on {c.address}:{port} as {c.ae_title}; {waiting}")
        yield
