"""Measure `--mode=pacs` beside Orthanc on this machine: films a second, latency, memory, and kills.

  python -m studies.pacs --data=FOLDER [--model=m1] [--films=500] [--kills=30] [--paced=60] [--pace=2]

FOLDER has DICOM films, which are copied with new UIDs to make up the number. They are sent by C-STORE; a report counts
once Orthanc has it. Then as many are sent again, while the process is killed at random moments and started again.
"""

import io
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from studies import study
from studies.orthanc import Orthanc, free_port, orthanc
from studies.pacs_service import Service, copies, send, watched

_LONGEST_S = 1800.0  # for all reports
_LOOK_S = 0.02
_SENDERS = 2


class Arrivals:
    """When each instance came into Orthanc, as its list of changes shows it."""

    def __init__(self, server: Orthanc):
        """Watch a server from now on."""
        self._server, self._ended = server, threading.Event()
        self.seen: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        last = 0
        while not self._ended.is_set():
            page = self._server.get("changes", since=last, limit=1000)
            now = time.monotonic()
            for change in page["Changes"]:
                if change["ChangeType"] == "NewInstance":
                    self.seen[change["ID"]] = now
            last = page["Last"]
            if page["Done"]:
                self._ended.wait(_LOOK_S)

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()


def reported(server: Orthanc, modality: str = "SR") -> dict[str, list[str]]:
    """Return Orthanc's names of the results of each film, by the film's SOP Instance UID."""
    found: dict[str, list[str]] = {}
    for instance in server.instances(modality):
        document = pydicom.dcmread(io.BytesIO(server.file(instance["ID"])), stop_before_pixels=True)
        found.setdefault(_film_of(document), []).append(instance["ID"])
    return found


def _film_of(document: pydicom.Dataset) -> str:
    if document.Modality == "SR":
        series = document.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        return str(series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
    return str(document.SourceImageSequence[0].ReferencedSOPInstanceUID)


def until_reported(server: Orthanc, count: int) -> None:
    """Wait until Orthanc has so many reports and captures."""
    end = time.monotonic() + _LONGEST_S
    while time.monotonic() < end:
        if server.get("statistics")["CountInstances"] >= 2 * count:
            return
        time.sleep(0.1)
    raise SystemExit("the reports do not come")


def sent(films: Sequence[bytes], port: int, senders: int = _SENDERS, pause_s: float = 0.0) -> dict[str, float]:
    """Send films by several associations at once; return when each was acknowledged."""
    times: dict[str, float] = {}

    def note(uid: str) -> None:
        times[uid] = time.monotonic()

    threads = [
        threading.Thread(target=send, args=(films[first::senders], port, note, senders * pause_s), daemon=True)
        for first in range(senders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def throughput(given: Namespace, scratch: Path, films: Sequence[bytes], pace: float | None) -> dict[str, Any]:
    """Send films as fast as they are taken, or `pace` a second, and measure until the last report."""
    with orthanc(scratch / "orthanc") as server:
        service = Service(given.model, scratch, free_port(), server.web)
        service.start()
        service.ready()
        arrivals = Arrivals(server)
        with watched(service) as looks:
            started = time.monotonic()
            acknowledged = sent(films, service.port, pause_s=1 / pace if pace else 0.0)
            received = time.monotonic() - started
            until_reported(server, len(films))
            took = time.monotonic() - started
        arrivals.end()
        found = reported(server)
        service.stop()
    assert found.keys() == acknowledged.keys() and all(len(each) == 1 for each in found.values())
    waits = [arrivals.seen[each[0]] - acknowledged[uid] for uid, each in found.items()]
    late = looks[len(looks) // 2 :]
    return {
        "what": "as fast as they are taken" if pace is None else f"{pace:g} films a second",
        "films": len(films), "films_per_s": len(films) / took, "received_per_s": len(films) / received,
        "median_s": statistics.median(waits), "p99_s": float(np.percentile(waits, 99)), "longest_s": max(waits),
        "peak_gb": max(looks) / 1e9, "late_min_gb": min(late) / 1e9, "late_max_gb": max(late) / 1e9,
    }  # fmt: skip


def predicted(given: Namespace, scratch: Path, films: Sequence[bytes]) -> dict[str, Any]:
    """Measure --mode=predict on the same films, from start to end."""
    folder = scratch / "films"
    folder.mkdir(parents=True)
    for number, film in enumerate(films):
        (folder / f"{number:05d}.dcm").write_bytes(film)
    options = [f"--model={given.model}", f"--data={folder}", f"--workdir={scratch / 'work'}"]
    started = time.monotonic()
    command = [sys.executable, "-m", "pneumojax.main", "--mode=predict", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - started
    empty = dict.fromkeys(("received_per_s", "median_s", "p99_s", "longest_s", "peak_gb", "late_min_gb", "late_max_gb"))
    return {"what": "--mode=predict, start to end", "films": len(films), "films_per_s": len(films) / took} | empty


def killed(given: Namespace, scratch: Path, films: Sequence[bytes]) -> dict[str, Any]:
    """Send films while the service is killed at random moments, and count the results of each film."""
    rng = random.Random(given.seed)
    with orthanc(scratch / "orthanc") as server:
        service = Service(given.model, scratch, free_port(), server.web)
        service.start()
        service.ready()
        times: dict[str, float] = {}
        sending = threading.Thread(target=lambda: times.update(sent(films, service.port)), daemon=True)
        sending.start()
        kills = 0
        while kills < given.kills:
            time.sleep(rng.uniform(0.0, given.between))
            service.kill()
            kills += 1
            service.start()
            if rng.random() < 0.8:  # else it is killed while it starts
                service.ready()
        sending.join()
        until_reported(server, len(films))
        time.sleep(2.0)  # for what comes twice
        service.stop()
        reports, captures = (Counter(map(len, reported(server, kind).values())) for kind in ("SR", "OT"))
        left = [path for name in ("films", "results", "aside") for path in (scratch / "queue" / name).iterdir()]
    return {
        "films": len(films), "kills": kills, "acknowledged": len(times),
        "with_one_report": reports[1], "with_several_reports": sum(reports.values()) - reports[1],
        "without": len(films) - sum(reports.values()), "with_one_capture": captures[1], "left_in_queue": len(left),
    }  # fmt: skip


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of DICOM films")
    parser.add_argument("--model", default="m1", help="trained model")
    parser.add_argument("--films", type=int, default=500, help="films")
    parser.add_argument("--kills", type=int, default=30, help="kills; 0: none")
    parser.add_argument("--between", type=float, default=4.0, help="longest time from a start to a kill, s")
    parser.add_argument("--paced", type=int, default=60, help="films that are sent at a pace; 0: none")
    parser.add_argument("--pace", type=float, default=2.0, help="films a second")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    given = parser.parse_args(argv)
    sources = sorted(given.data.glob("*.dcm"))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        films = list(copies(sources, given.films))
        rows = [predicted(given, scratch / "predict", films), throughput(given, scratch / "burst", films, None)]
        if given.paced:
            rows.append(throughput(given, scratch / "paced", films[: given.paced], given.pace))
        kills = [killed(given, scratch / "kills", films)] if given.kills else []
    shown = ["pacs", "pacs-memory"] + ["pacs-kills"] * bool(kills)
    study.finish("pacs", argv, {"rows": rows, "kills": kills}, shown, given.output)


if __name__ == "__main__":
    study.run(main)
