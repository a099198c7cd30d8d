"""A small PACS that speaks DICOMweb over a socket, and fails when it is asked to."""

import io
import json
import re
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom

SUCCESS, PROCESSING_FAILURE = None, 0x0110
_LEVELS = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}


class Pacs:
    """What the server holds, and how it is to fail.

    Attributes:
      files: instances by their SOP Instance UID.
      faults: of the next requests, one each: a status, "drop", "slow", "half" (of a STOW), or a failure reason.
      asked: method, path and authorization of each request.
      stored: SOP Instance UIDs in the order in which they came.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, pydicom.Dataset] = {}
        self.faults: deque[object] = deque()
        self.asked: list[tuple[str, str, str]] = []
        self.stored: list[str] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/dicom-web"

    def add(self, content: bytes) -> str:
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        with self.lock:
            self.files.setdefault(header.SOPInstanceUID, content)
            self.headers.setdefault(header.SOPInstanceUID, header)
            self.stored.append(header.SOPInstanceUID)
        return header.SOPInstanceUID

    def of_modality(self, modality: str) -> list[pydicom.Dataset]:
        with self.lock:
            uids = [uid for uid, header in self.headers.items() if header.Modality == modality]
            return [pydicom.dcmread(io.BytesIO(self.files[uid])) for uid in uids]

    def __enter__(self) -> "Pacs":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(pacs: Pacs) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def fails(self) -> bool:
            """Note the request, and do what the next fault says; return whether there is nothing more to answer."""
            with pacs.lock:
                pacs.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                fault = pacs.faults.popleft() if pacs.faults and pacs.faults[0] not in ("half", "part") else None
            if fault == "drop":
                self.close_connection = True
                self.connection.close()
                return True
            if fault == "slow":
                time.sleep(1.5)
                return False
            if isinstance(fault, int):
                self.answer(fault, b"", "text/plain")
                return True
            return False

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.fails():
                return
            url = urlsplit(self.path)
            parts = url.path.strip("/").split("/")[1:]
            chosen = dict(zip(parts[::2], parts[1::2], strict=False))
            filters = {name: values[0] for name, values in parse_qs(url.query).items()}
            with pacs.lock:
                found = [header for header in pacs.headers.values() if _matches(header, chosen, filters)]
            if parts[-1] in _LEVELS:
                unique = {header[_LEVELS[parts[-1]]].value: header for header in found}
                first, count = int(filters.get("offset", 0)), int(filters.get("limit", 10**9))
                page = [_json(header) for header in list(unique.values())[first : first + count]]
                self.answer(200 if page else 204, json.dumps(page).encode() if page else b"", "application/dicom+json")
                return
            if not found:
                self.answer(404, b"", "text/plain")
                return
            body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + pacs.files[found[0].SOPInstanceUID]
            with pacs.lock:
                whole = not (pacs.faults and pacs.faults[0] == "part" and pacs.faults.popleft())
            body = body + b"\r\n--b--\r\n" if whole else body[: len(body) // 2]
            self.answer(200, body, 'multipart/related; type="application/dicom"; boundary=b')

        def do_POST(self) -> None:
            body = self._body()
            if self.fails():
                return
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            parts = [part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(b"--" + boundary)[1:-1]]
            with pacs.lock:
                half = bool(pacs.faults and pacs.faults[0] == "half" and pacs.faults.popleft())
            stored = [pacs.add(part) for part in parts[: len(parts) // 2 if half else None]]
            if half:
                self.close_connection = True
                self.connection.close()
                return
            found = [_reference(pacs.headers[uid]) for uid in stored]
            self.answer(200, json.dumps({"00081199": {"vr": "SQ", "Value": found}}).encode(), "application/dicom+json")

        def _body(self) -> bytes:
            if "Content-Length" in self.headers:
                return self.rfile.read(int(self.headers["Content-Length"]))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

    return Handler


def _matches(header: pydicom.Dataset, chosen: dict[str, str], filters: dict[str, str]) -> bool:
    if any(header[_LEVELS[level]].value != value for level, value in chosen.items()):
        return False
    first, _, last = filters.get("StudyDate", "-").partition("-")
    if first and not first <= header.StudyDate <= (last or first):
        return False
    return filters.get("SOPInstanceUID", header.SOPInstanceUID) == header.SOPInstanceUID


def _json(header: pydicom.Dataset) -> dict:
    tags = {"0020000D": "StudyInstanceUID", "0020000E": "SeriesInstanceUID", "00080018": "SOPInstanceUID"}
    found = {tag: {"vr": "UI", "Value": [str(header[keyword].value)]} for tag, keyword in tags.items()}
    return found | {"00080060": {"vr": "CS", "Value": [header.Modality]}}


def _reference(header: pydicom.Dataset) -> dict:
    uids = {"00081150": header.SOPClassUID, "00081155": header.SOPInstanceUID}
    return {tag: {"vr": "UI", "Value": [str(value)]} for tag, value in uids.items()}


def added(pacs: Pacs, paths: list[Path]) -> None:
    """Put files into the PACS."""
    for path in paths:
        pacs.add(path.read_bytes())
