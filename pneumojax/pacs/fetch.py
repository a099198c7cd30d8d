"""Which films to fetch from a PACS, and how they come into the queue."""

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from ml_collections import ConfigDict

from pneumojax.api import Model
from pneumojax.data.sources.unlabelled import Seen
from pneumojax.pacs import log
from pneumojax.pacs.dicomweb import Archive, Place
from pneumojax.pacs.faults import Away, Backoff, Refused, Stopped
from pneumojax.pacs.identity import Kind, is_uid, key_of_model, result_uid
from pneumojax.pacs.queue import Queue
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import expanded
from pneumojax.runtime.wording import counted

_MODALITIES = ("CR", "DX", "DR", "RG")
_MOST_WAITING = 64  # films and results; fetching pauses above that
_TURN_S = 0.5


class Fetching:
    """Fetches the films that have no report by this model yet."""

    def __init__(
        self, archive: Archive, queue: Queue, rows: log.Rows, model: Model, backoff: Backoff, stopped: threading.Event
    ):
        self._archive, self._queue, self._rows, self._model = archive, queue, rows, model
        self._backoff, self._stopped = backoff, stopped
        self.fetched = self.known = self.refused = 0

    def all_of(self, studies: Iterable[str]) -> None:
        """Fetch the films of these studies.

        Raises:
          UserError: the PACS refuses a search.
          Stopped: the program is to end.
        """
        for study in studies:
            places = self._searched(lambda study=study: list(self._archive.films(study, _MODALITIES)))
            for place in places:
                while not self._queue.wait_until(_MOST_WAITING, _TURN_S):
                    if self._stopped.is_set():
                        raise Stopped("interrupted")
                self._film(place)

    def studies(self, dates: str) -> list[str]:
        """Return the studies of a day or a range of days.

        Raises:
          UserError: the PACS refuses the search.
        """
        return self._searched(lambda: list(self._archive.studies(dates)))

    def _searched(self, call: Callable[[], list]) -> list:
        try:
            return self._backoff.until_done(call)
        except Refused as reason:
            raise UserError(f"cannot search: {reason}: check --config.pacs.dicomweb") from None

    def _film(self, place: Place) -> None:
        name = self._queue.name_of(place.instance)
        report = result_uid(Kind.REPORT, place.instance, key_of_model(self._model))
        try:
            if self._queue.is_known(name) or self._backoff.until_done(lambda: self._archive.has(place.study, report)):
                self.known += 1
                return
            self._backoff.until_done(lambda: self._keep(name, place))
            self.fetched += 1
        except Refused as reason:
            row = self._model.rows([(name, Seen(None, f"it cannot be fetched: {reason}", ()))])[0]
            self._rows.add(name, row)
            self.refused += 1
            log.say(log.line_of(name, row))

    def _keep(self, name: str, place: Place) -> None:
        content = self._archive.fetch(place)
        try:
            self._queue.add(name, content)
        except OSError as error:
            raise Away(f"a film cannot be kept ({error.strerror or error})") from None

    def summary(self) -> str:
        """Return a sentence on what was fetched."""
        return (
            f"{counted(self.fetched, 'film')} fetched, {self.known:,} known already,"
            f" {self.refused:,} not given by the PACS"
        )


def is_wanted(config: ConfigDict) -> bool:
    """Whether the config names studies to fetch."""
    return bool(config.pacs.study or config.pacs.dates or config.pacs.worklist)


def named_studies(config: ConfigDict) -> list[str]:
    """Return the studies that the config names by their UIDs, each once. No message shows one.

    Raises:
      UserError: something is no UID, or the worklist cannot be read.
    """
    found = [config.pacs.study] if config.pacs.study else []
    if found and not is_uid(config.pacs.study):
        raise UserError("--config.pacs.study is no UID: digits and dots, at most 64")
    if config.pacs.worklist:
        found += _listed(config.pacs.worklist)
    return list(dict.fromkeys(found))


def _listed(worklist: str) -> list[str]:
    try:
        lines = Path(expanded(worklist)).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"cannot read the worklist {worklist}: {reason}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        uid = re.sub(r"#.*", "", line).strip()
        if uid and not is_uid(uid):
            raise UserError(f"line {number} of {worklist} is no UID: write a Study Instance UID on each line")
        found += [uid] if uid else []
    return found
