"""`--mode=pacs` as a process that studies start, send films to, kill and watch."""

import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pydicom
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE
from pynetdicom.association import Association

PEER, TITLE = "STUDY", "PNEUMOJAX"
_START_S = 180
_WATCH_S = 0.5  # between looks at the memory


class Service:
    """A process of `--mode=pacs` that listens, over its restarts."""

    def __init__(self, model: str, folder: Path, port: int, web: str):
        """Prepare to start it with its queue, its workdir and its output in a folder."""
        self.folder, self.port = folder, port
        self.output = folder / "output.txt"
        self.command = [
            sys.executable, "-m", "pneumojax.main", "--mode=pacs", f"--model={model}", f"--workdir={folder / 'work'}",
            f"--config.pacs.queue={folder / 'queue'}", f"--config.pacs.listen={port}", f"--config.pacs.dicomweb={web}",
            f"--config.pacs.peers={PEER}", f"--config.pacs.ae_title={TITLE}",
            "--config.pacs.associations_per_minute=1000000", "--config.pacs.timeout=5",
            "--config.pacs.film_megabytes=20",
        ]  # fmt: skip
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it; it appends to its output."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=output)

    def ready(self) -> None:
        """Wait until it takes associations."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            assert self.process is not None and self.process.poll() is None, self.output.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise SystemExit("the service does not listen")

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as a scheduler does; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def memory(self) -> int:
        """Return the bytes that the process and its children hold, where shared pages count once."""
        assert self.process is not None
        held = 0
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.process.pid)
            for one in [main, *main.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    held += one.memory_full_info().pss
        return held


@contextmanager
def watched(service: Service) -> Iterator[list[int]]:
    """Look at the service's memory while the block runs; yield the bytes at each look."""
    looks: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_WATCH_S):
            looks.append(service.memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield looks
    finally:
        ended.set()
        thread.join()


def copies(sources: Sequence[Path], count: int) -> Iterator[bytes]:
    """Yield `count` films: those of the files, in turn, each of a study of its own."""
    originals = [path.read_bytes() for path in sources]
    for number in range(count):
        dataset = pydicom.dcmread(io.BytesIO(originals[number % len(originals)]))
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(dataset, keyword, generate_uid(entropy_srcs=["study of pacs", keyword, str(number)]))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        yield file.getvalue()


def associated(port: int, syntaxes: Sequence[str]) -> Association | None:
    """Return an association with the service; None if it takes none now."""
    entity = AE(PEER)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    entity.connection_timeout = 5
    for kind in (
        ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage,
    ):  # fmt: skip
        entity.add_requested_context(kind, list(syntaxes))
    association = entity.associate("127.0.0.1", port, ae_title=TITLE)
    return association if association.is_established else None


def send(films: Sequence[bytes], port: int, acknowledged: Callable[[str], None], pause_s: float = 0.0) -> None:
    """Send films by one association after the other, and each again until it is acknowledged.

    Args:
      films: as files.
      port: of the service.
      acknowledged: called with a film's SOP Instance UID.
      pause_s: from one film's start to the next one's.
    """
    association = None
    for film in films:
        dataset = pydicom.dcmread(io.BytesIO(film))
        started = time.monotonic()
        while True:
            if association is None or not association.is_established:
                association = associated(port, [dataset.file_meta.TransferSyntaxUID])
            status = None
            with suppress(RuntimeError, ValueError):  # the association has ended
                status = association.send_c_store(dataset) if association else None
            if status and status.get("Status") == 0:
                break
            association = None
            time.sleep(0.2)
        acknowledged(str(dataset.SOPInstanceUID))
        time.sleep(max(0.0, started + pause_s - time.monotonic()))
    if association is not None:
        association.release()
