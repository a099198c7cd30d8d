"""The web application of `--mode=serve`: the page, and predictions of films that are sent to it.

A film is written into a temporary folder of the server while it is decoded, and is removed then. Nothing else is kept.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pneumojax.api import BATCH, Model
from pneumojax.data.sources.unlabelled import Seen, look_at_file
from pneumojax.export.try_page import Page
from pneumojax.inference.predictions import Row
from pneumojax.serving.batching import Batcher, Full
from pneumojax.serving.openapi import FIELD, document
from pneumojax.serving.serve_settings import Limits, is_loopback

_MULTIPART = "multipart/form-data"
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
Handler = Callable[[Request], Awaitable[Response]]


def application(model: Model, page: Page, limits: Limits, *, loopback: bool = True) -> Starlette:
    """Return the application.

    Args:
      model: what predicts.
      page: what `GET /` answers with.
      limits: see there.
      loopback: whether only this machine is to use it; then requests for other names of a host are refused, so that no
        web page can reach the server by a name that leads here.
    """
    server = _Server(model, page, limits)
    routes = [
        Route("/", server.show, methods=["GET"]),
        Route("/health", server.health, methods=["GET"]),
        Route("/openapi.json", server.describe, methods=["GET"]),
        Route("/predict", server.predict, methods=["POST"]),
    ]
    hosts = [Middleware(_OwnNamesOnly)] if loopback else []
    handlers: Mapping[Any, Any] = {HTTPException: _refused, Exception: _failed}
    return Starlette(routes=routes, middleware=hosts, exception_handlers=handlers, lifespan=server.running)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, {**_HEADERS, **(error.headers or {})})


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed: its terminal says why"}, 500, _HEADERS)


class _OwnNamesOnly:
    """Refuses requests for a host that is not this machine, whatever address led here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not _is_this_machine(Headers(scope=scope).get("host", "")):
            app = JSONResponse({"error": "the request names another host than this machine"}, 400, _HEADERS)
        await app(scope, receive, send)


def _is_this_machine(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


class _Server:
    """The handlers, and what they share."""

    def __init__(self, model: Model, page: Page, limits: Limits) -> None:
        self._model, self._page, self._limits = model, page, limits
        self._batcher = Batcher(model.rows, BATCH, limits.queue)
        self._readers = ThreadPoolExecutor(os.cpu_count() or 1)

    @asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """Predict while the application runs, with a folder for films that are being read."""
        task = asyncio.create_task(self._batcher.run())
        with tempfile.TemporaryDirectory(prefix="pneumojax-") as folder, self._readers:
            self._look = partial(_look, folder, self._model.image_size)
            yield
            task.cancel()

    async def show(self, request: Request) -> Response:
        policy = f"{self._page.policy}; frame-ancestors 'none'"
        headers = _HEADERS | {"Content-Security-Policy": policy, "Content-Type": "text/html; charset=windows-1252"}
        return Response(self._page.content, headers=headers)

    async def health(self, request: Request) -> Response:
        model = {name: self._model.metadata[name] for name in ("name", "digest")}
        return JSONResponse({"status": "ok", "model": model, "films": self._batcher.taken}, headers=_HEADERS)

    async def describe(self, request: Request) -> Response:
        return JSONResponse(document(self._limits), headers=_HEADERS)

    async def predict(self, request: Request) -> Response:
        _refuse_other_pages(request)
        _refuse_other_types(request)
        try:
            async with asyncio.timeout(self._limits.seconds):
                rows = await self._rows(request)
        except ClientDisconnect:
            raise HTTPException(400, "the connection ended early") from None
        except TimeoutError:
            raise HTTPException(408, f"the request took more than {self._limits.seconds:g} s") from None
        found = [row._asdict() | {"flags": list(row.flags)} for row in rows]
        return JSONResponse({"rows": found}, headers=_HEADERS)

    async def _rows(self, request: Request) -> list[Row]:
        """Return a row for each film of a request."""
        bounded = Request(request.scope, _bounded(request, self._limits.bytes))
        most = self._limits.films
        try:
            async with bounded.form(max_files=most, max_fields=0, max_part_size=1 << 10) as form:
                films = _films(form)
                with self._batcher.places(len(films)):
                    return await asyncio.gather(*map(self._row, films))
        except Full:
            detail = f"{self._batcher.taken} films wait already: try again later"
            raise HTTPException(503, detail, {"Retry-After": "1"}) from None
        except HTTPException as error:
            if "Too many files" in str(error.detail):
                raise HTTPException(400, f"more than {most} films in one request") from None
            raise

    async def _row(self, film: UploadFile) -> Row:
        content = await film.read()
        seen = await asyncio.get_running_loop().run_in_executor(self._readers, self._look, content)
        return await self._batcher.row(film.filename or "", seen)


def _look(folder: str, size: int, content: bytes) -> Seen:
    """Read a film as `--mode=predict` reads a file: decoders take files."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(content)
        file.flush()
        return look_at_file(file.name, size)


def _films(form: FormData) -> list[UploadFile]:
    """Return the films of a form, which holds nothing else."""
    parts = form.multi_items()
    if strange := [name for name, part in parts if name != FIELD or not isinstance(part, UploadFile)]:
        raise HTTPException(400, f"{strange[0]!r} is no film: send files as {FIELD!r}")
    if not parts:
        raise HTTPException(400, f"no film: send files as {FIELD!r}")
    return [part for _, part in parts if isinstance(part, UploadFile)]


def _bounded(request: Request, most: int) -> Receive:
    """Return what receives a request's body, but no more bytes than these."""
    declared = request.headers.get("content-length", "0")
    large = HTTPException(413, f"more than {most // 1_000_000:,} MB in one request")
    if not declared.isdecimal() or int(declared) > most:
        raise large
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise large
        return message

    return receive


def _refuse_other_types(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _MULTIPART:
        raise HTTPException(415, f"the body is {kind or 'of no type'}: send {_MULTIPART}, with files as {FIELD!r}")


def _refuse_other_pages(request: Request) -> None:
    """Refuse what a page of another site sends; browsers say where a request comes from."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, "pages of other sites may not send films here")
