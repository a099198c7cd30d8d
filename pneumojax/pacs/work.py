"""From films that wait to results that wait, and from these into the PACS: two loops, each for a thread of its own."""

import threading
from collections.abc import Callable, Sequence
from functools import partial

from pneumojax.api import Model
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.parallel import Workers
from pneumojax.data.sources.unlabelled import Seen
from pneumojax.inference.predictions import Row
from pneumojax.pacs import log, reading
from pneumojax.pacs.documents import documents
from pneumojax.pacs.faults import LONGEST_S, Backoff, Refused, Stopped
from pneumojax.pacs.identity import SHOWN_DIGITS
from pneumojax.pacs.queue import Queue
from pneumojax.pacs.reading import Film

_BATCH = 32  # films that are read at once, at most
_TURN_S = 0.5  # between looks at whether to stop
_FULL_S = 1.0  # wait after the first time that nothing can be written; it doubles

Store = Callable[[Sequence[bytes]], None]  # raises Away or Refused


class Predicting:
    """Predicts films that wait, in batches, and keeps what is made of them."""

    def __init__(
        self, queue: Queue, model: Model, batch_size: int, workers: Workers, rows: log.Rows, stopped: threading.Event
    ):
        """Prepare to predict.

        Args:
          queue: where films wait.
          model: what predicts.
          batch_size: images that are computed at once: that of `--mode=predict`, to get its numbers to the last digit.
          workers: they read the films, in processes that may crash.
          rows: the table of films.
          stopped: whether the program is to end.
        """
        self._queue, self._model, self._batch_size, self._workers = queue, model, batch_size, workers
        self._rows, self._stopped = rows, stopped
        self.refused = 0  # films without a report

    def loop(self) -> None:
        """Predict until the program stops. A full disk is waited for."""
        wait = _FULL_S
        while not self._stopped.is_set():
            self._queue.touch()
            names = self._queue.films(min(_BATCH, self._batch_size), _TURN_S)
            try:
                self._predict(names)
                wait = _FULL_S
            except OSError as error:
                log.say(f"a result cannot be kept ({error.strerror or error}): next try in {wait:.0f} s")
                self._stopped.wait(wait)
                wait = min(2 * wait, LONGEST_S)

    def _predict(self, names: Sequence[str]) -> None:
        read = partial(reading.read, size=self._model.image_size)
        found = self._workers.map(read, [str(self._queue.film(name)) for name in names])
        readable = [(name, one) for name, one in zip(names, found, strict=True) if isinstance(one, Film)]
        for name, one in zip(names, found, strict=True):
            if isinstance(one, UnreadableImage):
                self._refuse(name, str(one))
            elif self._queue.name_of(str(one.source.SOPInstanceUID)) != name:
                readable.remove((name, one))
                self._refuse(name, "its SOPInstanceUID is not that of its transfer")
        rows = self._model.rows([(name, one.seen) for name, one in readable], self._batch_size)
        for (name, one), row in zip(readable, rows, strict=True):
            self._report(name, one, row)

    def _report(self, name: str, one: Film, row: Row) -> None:
        try:
            made = documents(one, row, self._model)
        except OSError:
            raise
        except Exception as error:  # a bug costs one film; the error may quote its header
            self._refuse(name, f"a bug in PneumoJAX: {type(error).__name__} {log.where(error.__traceback__)}")
            return
        self._rows.add(name, row)
        self._queue.keep(name, made)
        log.say(log.line_of(name, row))

    def _refuse(self, name: str, reason: str) -> None:
        row = self._model.rows([(name, Seen(None, reason, ()))])[0]
        self._rows.add(name, row)
        self._queue.finish(name)
        self.refused += 1
        log.say(log.line_of(name, row))


class Delivering:
    """Brings results that wait into the PACS."""

    def __init__(self, queue: Queue, store: Store, backoff: Backoff, stopped: threading.Event):
        """Prepare to deliver by `store`."""
        self._queue, self._store, self._backoff, self._stopped = queue, store, backoff, stopped
        self.put_aside = 0  # results that the PACS does not take

    def loop(self) -> None:
        """Deliver until the program stops. A PACS that is away is waited for."""
        while not self._stopped.is_set():
            for name in self._queue.results(_TURN_S):
                if self._stopped.is_set():
                    return
                try:
                    self._deliver(name)
                except Stopped:
                    return
                except OSError as error:
                    log.say(f"the queue cannot be used ({error.strerror or error}): trying again")
                    self._stopped.wait(LONGEST_S / 10)
                    break

    def _deliver(self, name: str) -> None:
        made = self._queue.documents(name)
        try:
            self._backoff.until_done(lambda: self._store(made))
        except Refused as reason:
            self._queue.put_aside(name)
            self.put_aside += 1
            log.say(f"film {name[:SHOWN_DIGITS]}: its result is put aside until the next start: {reason}")
            return
        self._queue.finish(name)


def started(loop: Callable[[], None], stopped: threading.Event) -> threading.Thread:
    """Run a loop in a thread. If an error ends it, all stops, and a line says where it comes from."""

    def run() -> None:
        try:
            loop()
        except Exception as error:
            log.say(f"a bug in PneumoJAX: {type(error).__name__} {log.where(error.__traceback__)}")
        finally:
            stopped.set()  # without one of the loops, no film would get its report

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
