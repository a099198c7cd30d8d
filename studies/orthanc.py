"""A PACS on this machine alone: Debian's Orthanc with its DICOMweb plug-in, as tests and studies use it."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

from pneumojax.runtime.errors import UserError

TITLE = "ORTHANC"
_PLUGINS = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_START_S = 60


class Orthanc(NamedTuple):
    """A PACS that runs.

    Attributes:
      rest: URL of its own API.
      web: URL of its DICOMweb service.
      dicom_port: where it takes C-STORE, C-FIND and C-ECHO, as `TITLE`.
    """

    rest: str
    web: str
    dicom_port: int

    def get(self, path: str, **parameters: Any) -> Any:
        """Ask its own API."""
        answer = requests.get(f"{self.rest}/{path}", params=parameters, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def instances(self, modality: str) -> list[dict[str, str]]:
        """Return the tags of all instances of a modality."""
        query = {"Level": "Instance", "Expand": True, "Query": {"Modality": modality}, "Limit": 0}
        answer = requests.post(f"{self.rest}/tools/find", json=query, timeout=120)
        answer.raise_for_status()
        return [found | found["MainDicomTags"] for found in answer.json()]

    def file(self, instance: str) -> bytes:
        """Return the file of an instance, by Orthanc's own name for it."""
        answer = requests.get(f"{self.rest}/instances/{instance}/file", timeout=60)
        answer.raise_for_status()
        return answer.content


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def orthanc(folder: Path, more: Mapping[str, Any] | None = None) -> Iterator[Orthanc]:
    """Run Orthanc with its storage in a folder while the block runs, on loopback.

    Args:
      folder: for its storage, its configuration and its log.
      more: fields of its configuration.

    Raises:
      UserError: it is not installed, or does not start.
    """
    program = shutil.which("Orthanc")
    if program is None or not _PLUGINS.exists():
        raise UserError("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
    config = {
        "Name": "PneumoJAX", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "HttpPort": free_port(), "DicomPort": free_port(), "DicomAet": TITLE, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowFind": True,
        "DicomCheckCalledAet": False, "OverwriteInstances": False, "Plugins": [str(_PLUGINS)], "StableAge": 1,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True},
    } | dict(more or {})  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    rest = f"http://127.0.0.1:{config['HttpPort']}"
    try:
        _wait_for(rest, process, folder / "orthanc.log")
        yield Orthanc(rest, f"{rest}/dicom-web", config["DicomPort"])
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(rest: str, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            requests.get(f"{rest}/system", timeout=2).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.2)
    raise UserError(f"Orthanc does not start: see {log}")
