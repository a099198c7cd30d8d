"""The rules of the config's `serve` fields."""

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict

from pneumojax.runtime.config import Rule


class Limits(NamedTuple):
    """What one server and one request may take.

    Attributes:
      queue: films that may wait for an answer, in all.
      films: films in one request.
      bytes: size of one request.
      seconds: time for one request, with its upload.
    """

    queue: int
    films: int
    bytes: int
    seconds: float


def rules(config: ConfigDict) -> Iterable[Rule]:
    """Yield the rules of `config.serve`."""
    c = config.serve
    yield Rule("serve.host", _is_address(c.host), "an address of this machine, such as 127.0.0.1 or 0.0.0.0")
    yield Rule("serve.port", 0 <= c.port < 1 << 16, "from 0 to 65535")
    yield Rule("serve.queue", 1 <= c.queue <= 10_000, "from 1 to 10,000")
    yield Rule("serve.films", 1 <= c.films <= 1_000, "from 1 to 1,000")
    yield Rule("serve.megabytes", 1 <= c.megabytes <= 1_000, "from 1 to 1,000")
    yield Rule("serve.seconds", 1 <= c.seconds <= 3_600, "from 1 to 3,600")


def limits(config: ConfigDict) -> Limits:
    """Return the limits that a config sets."""
    c = config.serve
    return Limits(c.queue, min(c.films, c.queue), c.megabytes * 1_000_000, c.seconds)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        is_loopback(host)
    except ValueError:
        return False
    return True
