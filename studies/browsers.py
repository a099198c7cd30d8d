"""Drive the page of a model in a browser: what `page/test/drive.mjs` sees, in Python's terms."""

import base64
import csv
import io
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from studies import study

DRIVER = study.ROOT / "page/test/drive.mjs"
EXECUTABLES = {"chrome": ("chromium", "google-chrome"), "firefox": ("firefox-esr", "firefox")}
_SECONDS = 3600


class Finding(NamedTuple):
    """What the page finds on a film; of one that it cannot read, the error alone.

    Attributes:
      map: (size, size) float32.
      square: (size, size) uint8, what the model saw.
      row: of the CSV.
    """

    logit: float
    flags: tuple[str, ...]
    map: np.ndarray
    square: np.ndarray
    error: str
    row: Mapping[str, str]


def executable(browser: str) -> str | None:
    """Return the browser's program; None if it is not installed."""
    return next(filter(None, map(shutil.which, EXECUTABLES[browser])), None)


def missing() -> str:
    """Return what is missing to drive browsers; empty if nothing is."""
    if not shutil.which("node"):
        return "node"
    if not (study.ROOT / "page/node_modules/puppeteer-core").exists():
        return "puppeteer-core: see `make test-page`"
    return ""


def drive(browser: str, page: Path, **asked: Any) -> dict[str, Any]:
    """Return what `drive.mjs` sees of a page; its head says what can be asked."""
    plan = {"browser": browser, "executable": executable(browser), "url": page.resolve().as_uri(), **asked}
    command = ["node", str(DRIVER)]
    done = subprocess.run(command, input=json.dumps(plan), capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def findings(batch: Mapping[str, Any]) -> list[Finding]:
    """Return the findings of a batch that `drive` saw."""
    rows = csv.DictReader(io.StringIO(batch["csv"], newline=""))
    return [_finding(found, row) for found, row in zip(batch["findings"], rows, strict=True)]


def _finding(found: Mapping[str, Any], row: Mapping[str, str]) -> Finding:
    if "error" in found:
        return Finding(np.nan, (), np.empty((0, 0)), np.empty((0, 0)), found["error"], row)
    square = np.frombuffer(base64.b64decode(found["square"]), np.uint8)
    size = round(len(square) ** 0.5)
    map_ = np.frombuffer(base64.b64decode(found["map"]), np.float32).reshape(size, size)
    return Finding(found["logit"], tuple(found["flags"]), map_, square.reshape(size, size), "", row)


@contextmanager
def listening() -> Iterator[tuple[str, Sequence[str]]]:
    """Listen on this machine alone; yield the address, and the list of what asked for it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802  # the base class's name
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", asked
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def copied(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Copy films under numbered names, since folders may have films of the same name; yield their new paths."""
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder) / f"{number:04d}{path.suffix}" for number, path in enumerate(paths)]
        for path, copy in zip(paths, made, strict=True):
            shutil.copyfile(path, copy)
        yield made
