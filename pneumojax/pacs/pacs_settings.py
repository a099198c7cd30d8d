"""The rules of the config's `pacs` fields."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit

from ml_collections import ConfigDict

from pneumojax.runtime.config import Rule

_TITLE = r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?"  # 1 to 16 characters of ASCII without a backslash
_PEER = re.compile(rf"(?P<title>{_TITLE})@(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{{1,5}})")


class Peer(NamedTuple):
    """An application entity and where it listens."""

    title: str
    host: str
    port: int


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.pacs`. What identifies a patient is not checked here: its value would be shown."""
    c = config.pacs
    yield Rule("pacs.dicomweb", not c.dicomweb or _is_url(c.dicomweb), "empty, or a URL without user and password")
    yield Rule("pacs.dates", not c.dates or days_in(c.dates) is not None, "empty, a day such as 20260131, or two")
    yield Rule("pacs.listen", 0 <= c.listen < 65536, "from 0 to 65535")
    yield Rule("pacs.ae_title", bool(re.fullmatch(_TITLE, c.ae_title)), "1 to 16 characters of ASCII")
    titled = all(re.fullmatch(_TITLE, title) for title in listed(c.peers))
    yield Rule("pacs.peers", titled, "titles of 1 to 16 characters, with commas between them")
    addresses = all(re.fullmatch(r"[0-9a-fA-F.:]+", host) for host in listed(c.hosts))
    yield Rule("pacs.hosts", addresses, "network addresses, with commas between them")
    yield Rule("pacs.send", not c.send or peer_in(c.send) is not None, "empty, or AE@HOST:PORT")
    yield Rule("pacs.timeout", 0.1 <= c.timeout <= 3600, "from 0.1 to 3600")
    yield Rule("pacs.retry_seconds", 0.01 <= c.retry_seconds <= 60, "from 0.01 to 60")
    yield Rule("pacs.associations", 1 <= c.associations <= 100, "from 1 to 100")
    yield Rule("pacs.associations_per_minute", 1 <= c.associations_per_minute <= 1_000_000, "from 1 to 1,000,000")
    yield Rule("pacs.pdu_kilobytes", 4 <= c.pdu_kilobytes <= 1024, "from 4 to 1024")
    yield Rule("pacs.film_megabytes", 1 <= c.film_megabytes <= 300, "from 1 to 300")


def listed(text: str) -> list[str]:
    """Return the names in a text with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def days_in(dates: str) -> str | None:
    """Return a day or a range of days in DICOM's form, such as 20260131 or 20260131-20260202; None if it is neither."""
    days = dates.split("-")
    if len(days) > 2 or not all(re.fullmatch(r"\d{8}", day) for day in days) or sorted(days) != days:
        return None
    try:
        for day in days:
            datetime.strptime(day, "%Y%m%d")
    except ValueError:
        return None
    return dates


def peer_in(text: str) -> Peer | None:
    """Return the peer that AE@HOST:PORT names; None if it has another form."""
    match = _PEER.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        return None
    return Peer(match["title"], match["host"].strip("[]"), int(match["port"]))


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc and url.port != 0
    except ValueError:  # such as a port that is no number
        return False
