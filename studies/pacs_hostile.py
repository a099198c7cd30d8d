"""Send mutated films and mutated associations to `--mode=pacs`, and look for crashes, hangs and identifiers.

  python -m studies.pacs_hostile [--model=m1] [--films=1000] [--associations=1000]

The films are phantoms of a patient who does not exist. Of a film, the elements are mutated, and the rest of its
transfer is sound. Of an association, any byte that is sent is.
"""

import random
import socket
import struct
import tempfile
import threading
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from pneumojax.data.sources import phantom
from studies import study
from studies.orthanc import free_port, orthanc
from studies.pacs_service import Service, associated, watched

NAME, IDENTIFIER, PREFIX = "Quagga^Zebra", "QZ-4711-0815", "1.2.826.0.1.3680043.8.498.31415926535"
SECRETS = ("Quagga", "Zebra", IDENTIFIER, "19010203", "ACC-2718", PREFIX)
_SILENT_S = 10.0  # within which the service must answer or close
_PART = 8192  # bytes of a fragment
_EVERY = 50  # cases between two echoes


class Recorded(NamedTuple):
    """A sound transfer of one film, as its sender sends it.

    Attributes:
      request: the association request.
      context: the number of the presentation context.
      command: the command set of C-STORE.
      dataset: the film.
      release: the end.
    """

    request: bytes
    context: int
    command: bytes
    dataset: bytes
    release: bytes


def film(number: int) -> Dataset:
    """Make a film whose UID has always the same length."""
    pixels = phantom.render(seed=3, index=number, label=number % 2, size=64)[0]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, uid_of(number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{PREFIX}.1", f"{PREFIX}.2"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, IDENTIFIER, "19010203"
    dataset.AccessionNumber, dataset.StudyDate, dataset.Modality = "ACC-2718", "20260131", "CR"
    dataset.BodyPartExamined, dataset.ViewPosition, dataset.InstanceNumber = "CHEST", "PA", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def uid_of(number: int) -> str:
    """Return a UID of always the same length."""
    return f"{PREFIX}.{1_000_000 + number}"


def units(stream: bytes) -> Iterator[bytes]:
    """Yield the protocol data units of a stream."""
    place = 0
    while place + 6 <= len(stream):
        length = 6 + struct.unpack_from(">I", stream, place + 2)[0]
        yield stream[place : place + length]
        place += length


def recorded(port: int) -> Recorded:
    """Send a film to the service through this process, and record what is sent."""
    sent = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_forward, args=(server, port, sent), daemon=True)
        thread.start()
        association = associated(server.getsockname()[1], [ExplicitVRLittleEndian])
        assert association is not None, "the service takes a sound association"
        assert association.send_c_store(film(0)).Status == 0
        association.release()
        thread.join(30)
    request, *data, release = units(bytes(sent))
    values = [value for unit in data for value in _values(unit)]
    command, dataset = (b"".join(value[2:] for value in values if value[1] & 1 == kind) for kind in (1, 0))
    return Recorded(request, values[0][0], command, dataset, release)


def _forward(server: socket.socket, port: int, sent: bytearray) -> None:
    client, _ = server.accept()
    with client, socket.create_connection(("127.0.0.1", port)) as service:
        back = threading.Thread(target=_pump, args=(service, client, bytearray()), daemon=True)
        back.start()
        _pump(client, service, sent)
        back.join(10)


def _pump(source: socket.socket, target: socket.socket, seen: bytearray) -> None:
    try:
        while content := source.recv(65536):
            seen += content
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _values(unit: bytes) -> Iterator[bytes]:
    """Yield the presentation data values of a data unit, without their lengths."""
    place = 6
    while place + 4 <= len(unit):
        (length,) = struct.unpack_from(">I", unit, place)
        yield unit[place + 4 : place + 4 + length]
        place += 4 + length


def transfer(of: Recorded, command: bytes, dataset: bytes) -> list[bytes]:
    """Return the data units of a command and a film."""
    made = [_unit(of.context, 3, command)]
    parts = [dataset[place : place + _PART] for place in range(0, len(dataset), _PART)] or [b""]
    return made + [_unit(of.context, 2 * (number == len(parts)), part) for number, part in enumerate(parts, start=1)]


def _unit(context: int, control: int, content: bytes) -> bytes:
    value = struct.pack(">IBB", len(content) + 2, context, control) + content
    return struct.pack(">BBI", 4, 0, len(value)) + value


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one to eight changes."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.randrange(max(len(found), 1))
        kind = rng.randrange(7)
        if kind == 0:
            found[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            found[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0"))
        elif kind == 2:
            del found[place : place + rng.randrange(1, 64)]
        elif kind == 3:
            found[place:place] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 4:
            del found[place:]
        elif kind == 5:
            found[place:place] = found[place : place + rng.randrange(1, 512)]
        else:
            found[place : place + 2] = b"\xff\xff"
    return bytes(found)


def mutated_film(of: Recorded, number: int, rng: random.Random) -> list[bytes]:
    """Return a sound transfer of a mutated film, and its end. Half of the changes hit the header."""
    old, new = uid_of(0).encode(), uid_of(number).encode()
    command, dataset = of.command.replace(old, new), of.dataset.replace(old, new)
    end = len(dataset) if rng.random() < 0.5 else 700
    return [of.request, *transfer(of, command, mutated(dataset[:end], rng) + dataset[end:]), of.release]


def mutated_association(of: Recorded, number: int, rng: random.Random) -> list[bytes]:
    """Return a transfer of which one or two units are mutated; a hundredth is noise alone."""
    if rng.random() < 0.01:
        return [rng.randbytes(rng.randrange(1, 5000))]
    old, new = uid_of(0).encode(), uid_of(number).encode()
    made = [of.request, *transfer(of, of.command.replace(old, new), of.dataset.replace(old, new)), of.release]
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(made))
        made[place] = mutated(made[place], rng)
    return made


def outcome(port: int, parts: Sequence[bytes]) -> str:
    """Send the units of a connection, the request first, and return how it ends."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=_SILENT_S) as connection:
        try:
            connection.sendall(parts[0])
            if len(parts) > 1:
                answer += connection.recv(65536)
                connection.sendall(b"".join(parts[1:]))
            answer += _until_silent(connection)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(_SILENT_S)
            while content := connection.recv(65536):
                answer += content
        except TimeoutError:
            return "no end"
        except OSError:
            return "closed"
    kinds = {unit[0] for unit in units(answer) if unit}
    if 4 in kinds:
        return "answered"
    return "rejected" if 3 in kinds else "aborted" if 7 in kinds else "closed"


def _until_silent(connection: socket.socket) -> bytes:
    """Read what comes until the end, or half a second without anything: a service may wait for more."""
    answer = b""
    connection.settimeout(0.5)
    try:
        while content := connection.recv(65536):
            answer += content
            if {unit[0] for unit in units(answer) if unit} & {3, 6, 7}:  # rejected, released, aborted
                break
    except TimeoutError:
        pass
    return answer


def attacked(
    given: Namespace, what: str, count: int, make: Callable[[Recorded, int, random.Random], list[bytes]]
) -> dict[str, Any]:
    """Send `count` cases, with an echo of a sound peer now and then, and see what is left."""
    with tempfile.TemporaryDirectory() as name, orthanc(Path(name) / "orthanc") as server:
        folder = Path(name)
        service = Service(given.model, folder, free_port(), server.web)
        service.start()
        service.ready()
        of, rng = recorded(service.port), random.Random(given.seed)
        ends: Counter[str] = Counter()
        slowest = 0.0
        with watched(service) as looks:
            for number in range(1, count + 1):
                started = time.monotonic()
                ends[outcome(service.port, make(of, number, rng))] += 1
                slowest = max(slowest, time.monotonic() - started)
                if number % _EVERY == 0:
                    _require_sound(service.port)
            _wait_for_films(folder)
        alive = service.process is not None and service.process.poll() is None
        stored = len(server.instances("SR"))
        status = service.stop()
        rows = (folder / "work/pacs.csv").read_text()
        lines = service.output.read_text()
        names = "\n".join(str(path.relative_to(folder)) for path in (folder / "queue").rglob("*"))
    return {
        "what": what, "cases": count, **{end: ends[end] for end in ("answered", "rejected", "aborted", "closed")},
        "no_end": ends["no end"], "slowest_s": slowest, "reports": stored, "refused": rows.count(",no report,"),
        "peak_gb": max(looks) / 1e9, "crashes": int(not alive or status != 75),
        "tracebacks": lines.count("Traceback"), "bugs": lines.count("bug in PneumoJAX"),
        "identifiers": sum(secret in text for secret in SECRETS for text in (lines, rows, names)),
    }  # fmt: skip


def _require_sound(port: int) -> None:
    """Require that a sound peer is served."""
    end = time.monotonic() + 60
    while (association := associated(port, [ExplicitVRLittleEndian])) is None:
        if time.monotonic() > end:
            raise SystemExit("the service takes no association any more")
        time.sleep(0.2)
    association.release()


def _wait_for_films(folder: Path) -> None:
    end = time.monotonic() + 600
    while any((folder / "queue/films").iterdir()) or any((folder / "queue/results").iterdir()):
        if time.monotonic() > end:
            raise SystemExit("the queue does not become empty")
        time.sleep(0.2)


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--model", default="m1", help="trained model")
    parser.add_argument("--films", type=int, default=1000, help="mutated films")
    parser.add_argument("--associations", type=int, default=1000, help="mutated associations")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    given = parser.parse_args(argv)
    rows = [
        attacked(given, "films", given.films, mutated_film),
        attacked(given, "associations", given.associations, mutated_association),
    ]
    study.finish("pacs_hostile", argv, {"rows": rows}, ["pacs-hostile"], given.output)


if __name__ == "__main__":
    study.run(main)
