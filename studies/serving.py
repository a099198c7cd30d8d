"""Measure --mode=serve: films a second and waiting times with several clients, beside --mode=predict.

  python -m studies.serving --data=FOLDER [--model=m1] [--clients=1,8,64] [--seconds=10] [--rounds=3] [--bad=1000]

FOLDER has class folders of JPEGs. Each client sends a film, waits for its row, and sends the next; all of them are one
process on the same machine, so they take some of its cores. --mode=predict reads the same films from disk; its rate is
that once it has started. Then come bad requests, and SIGTERM while requests are under way.
"""

import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from studies import study
from studies.commands import labelled_paths, link

BOUNDARY = "film-boundary"
LINES = (200, 2000)  # films of the two runs of --mode=predict whose difference gives its rate
_START_S = 120.0


class Server(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int


@contextmanager
def running(model: str) -> Iterator[Server]:
    """Start a server on a free port of this machine; end it at the end."""
    command = [sys.executable, "-m", "pneumojax.main", "--mode=serve", f"--model={model}", "--config.serve.port=0"]
    command.append("--config.serve.queue=256")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split()[3].rstrip(":").rpartition(":")[2])
        try:
            yield Server(process, port)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(_START_S)


def form(content: bytes, name: str = "film.jpeg") -> bytes:
    """Return a request that sends one film."""
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="film"; filename="{name}"\r\n\r\n'.encode()
    body = start + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read an answer: its status and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lengths = [int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:")]
    return int(head.split()[1]), await (reader.readexactly(lengths[0]) if lengths else reader.read())


async def client(port: int, requests: Sequence[bytes], until: float) -> list[tuple[int, float]]:
    """Send one request after the other until it is time; return each one's status and seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = []
    for request in cycle(requests):
        started = time.perf_counter()
        if started >= until:
            break
        writer.write(request)
        await writer.drain()
        status, _ = await answer(reader)
        found.append((status, time.perf_counter() - started))
    writer.close()
    await writer.wait_closed()
    return found


async def load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Return the rate and the waiting times with so many clients."""
    until = time.perf_counter() + seconds
    started = time.perf_counter()
    each = await asyncio.gather(*(client(port, requests[number:], until) for number in range(clients)))
    took = time.perf_counter() - started
    found = [one for own in each for one in own]
    waits = [1000 * wait for _, wait in found]
    statuses = Counter(status for status, _ in found)
    p50, p99 = np.percentile(waits, (50, 99))
    rate = statuses[200] / took
    return {
        "clients": clients,
        "films_per_s": rate,
        "p50_ms": p50,
        "p99_ms": p99,
        "refused": len(found) - statuses[200],
    }


def predicted(model: str, data: Path) -> float:
    """Return the films a second of --mode=predict once it has started."""
    times = []
    with tempfile.TemporaryDirectory() as name:
        for count in LINES:
            folder = Path(name) / str(count)
            link(data, folder, count)
            command = [sys.executable, "-m", "pneumojax.main", "--mode=predict", f"--model={model}", f"--data={folder}"]
            started = time.perf_counter()
            subprocess.run([*command, f"--config.prediction.output={name}/rows.csv"], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
    return (LINES[1] - LINES[0]) / (times[1] - times[0])


def bad_requests(films: Sequence[bytes], count: int) -> Iterator[tuple[bytes, bool]]:
    """Yield requests that are broken in many ways, each with whether the connection ends behind it."""
    choose = random.Random(0)
    for number in range(count):
        whole = bytearray(form(films[number % len(films)]))
        kind = number % 8
        if kind == 0:  # a damaged film
            place = choose.randrange(300, len(whole) - 60)
            whole[place : place + 40] = choose.randbytes(40)
        elif kind == 1:  # no film
            whole = bytearray(form(choose.randbytes(choose.randrange(2000))))
        elif kind == 2:  # cut short, and the connection closed
            del whole[choose.randrange(10, len(whole)) :]
        elif kind == 3:  # noise in place of HTTP
            whole = bytearray(choose.randbytes(200) + b"\r\n\r\n")
        elif kind == 4:  # another boundary
            whole = bytearray(bytes(whole).replace(f"boundary={BOUNDARY}".encode(), b"boundary=another-film"))
        elif kind == 5:  # a length that is wrong
            whole = bytearray(bytes(whole).replace(b"Content-Length: ", b"Content-Length: -"))
        elif kind == 6:  # another page or method
            whole = bytearray(b"DELETE /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n")
        else:  # an empty film
            whole = bytearray(form(b""))
        yield bytes(whole), kind == 2


async def sent(port: int, request: bytes, ends: bool) -> str:
    """Send a request on a connection of its own, which `ends` then; return the status that comes back, if any."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if ends:
            writer.write_eof()
        return str((await asyncio.wait_for(answer(reader), 60))[0])
    except (OSError, asyncio.IncompleteReadError):
        return "connection closed"
    finally:
        writer.close()


async def refused(port: int, requests: Sequence[tuple[bytes, bool]]) -> dict[str, int]:
    """Return how often each status came back for bad requests."""
    return dict(Counter([await sent(port, *request) for request in requests]).most_common())


async def stopped(server: Server, request: bytes, clients: int) -> dict[str, int]:
    """Send a request by each client, stop the server, and return how many it took and how many it answered."""
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(clients)]
    for _, writer in opened:
        writer.write(request)
        await writer.drain()
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    taken = 0
    while not taken:
        writer.write(health)
        _, body = await answer(reader)
        taken = int(body.rpartition(b'"films":')[2].rstrip(b"}"))
    server.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*(answer(reader) for reader, _ in opened), return_exceptions=True)
    answered = sum(1 for found in answers if not isinstance(found, BaseException) and found[0] == 200)
    return {"clients": clients, "taken_at_least": taken, "answered": answered}


def measure(model: str, data: Path, clients: Sequence[int], seconds: float, rounds: int, bad: int) -> dict[str, Any]:
    """Take turns of all numbers of clients and of --mode=predict; then send bad requests, and stop the server."""
    films = [path.read_bytes() for path, _ in islice(labelled_paths(data), 512)]
    requests = [form(film) for film in films]
    turns: list[dict[str, Any]] = []
    with running(model) as server:
        asyncio.run(load(server.port, requests, max(clients), min(seconds, 3)))  # a start
        for turn in range(rounds):
            for count in clients:
                turns.append({"turn": turn} | asyncio.run(load(server.port, requests, count, seconds)))
        found = asyncio.run(refused(server.port, list(bad_requests(films, bad))))
        after = asyncio.run(load(server.port, requests, 1, 2))
        ended = asyncio.run(stopped(server, requests[0], 32))
        ended["status"] = server.process.wait(_START_S)
    rates = [predicted(model, data) for _ in range(rounds)]
    rows = [
        _row(f"--mode=serve, {_clients(count)}", [turn for turn in turns if turn["clients"] == count])
        for count in clients
    ]
    rows.append(_row("--mode=predict, once it has started", [{"films_per_s": rate} for rate in rates]))
    return {"rows": rows, "bad": found, "films_per_s_after_bad": after["films_per_s"], "stopped": ended, "turns": turns}


def _clients(clients: int) -> str:
    """Return the number of clients in words."""
    return "1 client" if clients == 1 else f"{clients} clients"


def _row(what: str, turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over the turns."""
    names = ("films_per_s", "p50_ms", "p99_ms", "refused")
    medians = {name: float(np.median([turn[name] for turn in turns])) if name in turns[0] else None for name in names}
    return {"what": what} | medians


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="class folders of JPEGs")
    parser.add_argument("--model", default="m1", help="what --model takes")
    parser.add_argument("--clients", type=study.numbers, default=[1, 8, 64], help="at the same time")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    parser.add_argument("--bad", type=int, default=1000, help="bad requests")
    given = parser.parse_args(argv)
    figures = measure(given.model, given.data, given.clients, given.seconds, given.rounds, given.bad)
    study.finish("serving", argv, figures, ["serving", "serving-bad", "serving-stopped"], given.output)


if __name__ == "__main__":
    study.run(main)
