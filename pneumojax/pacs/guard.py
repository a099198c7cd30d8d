"""A server for associations that anybody may try to open, with limits on what one may cost."""

import socket
import struct
import threading
import time
from collections import deque
from socketserver import BaseServer
from typing import Any, NamedTuple

from pynetdicom.transport import ThreadedAssociationServer

_HEAD = 6  # bytes: the type of a protocol data unit, a reserved byte, and the length of the rest
_SLACK = 4096  # bytes of a data unit above the longest that was agreed upon, and of a message above its film
_MESSAGE_S = 300.0  # for one film
_MAX_ADDRESSES = 10_000  # that are remembered


class Limits(NamedTuple):
    """What a peer may do.

    Attributes:
      hosts: addresses that may connect; empty: all.
      connections: how many may be open at once, with or without an association.
      per_minute: connections that one address may open.
      pdu_bytes: longest protocol data unit.
      message_bytes: longest message, which is a film and its command.
      silent_s: seconds that a peer may be silent within a message.
      message_s: seconds for a message.
    """

    hosts: frozenset[str]
    connections: int
    per_minute: int
    pdu_bytes: int
    message_bytes: int
    silent_s: float
    message_s: float = _MESSAGE_S


class GuardedSocket(socket.socket):
    """A connection that ends when its peer sends too much, too long units, or too slowly.

    What comes between two answers counts as one message.
    """

    _limits: Limits

    @classmethod
    def of(cls, plain: socket.socket, limits: Limits) -> "GuardedSocket":
        """Take over a connection."""
        guarded = cls(plain.family, plain.type, plain.proto, fileno=plain.detach())
        guarded._limits = limits
        guarded.settimeout(limits.silent_s)
        guarded._start_message()
        guarded._head, guarded._left = b"", 0
        return guarded

    def _start_message(self) -> None:
        self._received, self._since = 0, time.monotonic()

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        """Receive bytes.

        Raises:
          OSError: a limit is exceeded, or the peer is silent.
        """
        try:
            content = self._within_limits(super().recv(*args, **kwargs))
        except OSError:
            self.close()  # pynetdicom takes it for closed
            raise
        if not content:
            self.close()
        return content

    def _within_limits(self, content: bytes) -> bytes:
        if not self._received:
            self._since = time.monotonic()  # what comes before is idle time, which pynetdicom limits
        self._received += len(content)
        if self._received > self._limits.message_bytes + _SLACK:
            raise ConnectionAbortedError("a message is too long")
        if time.monotonic() - self._since > self._limits.message_s:
            raise ConnectionAbortedError("a message takes too long")
        self._follow(content)
        return content

    def send(self, *args: Any, **kwargs: Any) -> int:
        """Send bytes: an answer, after which the next message begins."""
        self._start_message()
        return super().send(*args, **kwargs)

    def _follow(self, content: bytes) -> None:
        """Find the head of every data unit, and refuse one that is too long."""
        place = 0
        while place < len(content):
            if self._left:
                step = min(self._left, len(content) - place)
                self._left -= step
                place += step
                continue
            missing = _HEAD - len(self._head)
            self._head += content[place : place + missing]
            place += missing
            if len(self._head) == _HEAD:
                (self._left,) = struct.unpack(">I", self._head[2:])
                self._head = b""
                if self._left > self._limits.pdu_bytes + _SLACK:
                    raise ConnectionAbortedError("a protocol data unit is too long")


class GuardedServer(ThreadedAssociationServer):
    """A server whose `limits` are set before it serves."""

    daemon_threads = True
    limits: Limits
    _rates: "Rates"

    def shutdown(self) -> None:
        """End the server, which is not one of those that its application entity lists."""
        BaseServer.shutdown(self)
        self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether this address may open one more connection now."""
        host = str(client_address[0])
        if self.limits.hosts and host not in self.limits.hosts:
            return False
        return len(self.active_associations) < self.limits.connections and self._rates.allowed(host)

    def set_limits(self, limits: Limits) -> None:
        """Set the limits."""
        self.limits = limits
        self._rates = Rates(limits.per_minute)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, guarded."""
        plain, address = super().get_request()
        return GuardedSocket.of(plain, self.limits), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the error of a library may quote what was received."""


class Rates:
    """Counts each address's connections of the last minute."""

    def __init__(self, per_minute: int, clock: Any = time.monotonic):
        """Allow `per_minute` connections a minute to each address."""
        self._per_minute, self._clock = per_minute, clock
        self._opened: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def allowed(self, host: str) -> bool:
        """Count one connection, and return whether it is allowed."""
        now = self._clock()
        with self._lock:
            if host not in self._opened and len(self._opened) >= _MAX_ADDRESSES:
                self._opened.pop(next(iter(self._opened)))
            opened = self._opened.setdefault(host, deque())
            while opened and opened[0] <= now - 60:
                opened.popleft()
            if len(opened) >= self._per_minute:
                return False
            opened.append(now)
            return True
