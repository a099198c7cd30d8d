"""Films by C-STORE: from known peers alone, acknowledged once they are on the disk, within limits."""

import socket
import struct
import time

import pydicom
import pytest
from pacs_films import STUDY, film, instance_uid
from pydicom import uid

pytest.importorskip("pynetdicom", reason="the extra [dicom] is not installed")

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from pneumojax.pacs.guard import Limits, Rates
from pneumojax.pacs.listen import Station, listening
from pneumojax.pacs.queue import Queue

pytestmark = pytest.mark.usefixtures("sockets_collected")
LIMITS = Limits(frozenset(), 20, 1000, pdu_bytes=16384, message_bytes=100_000, silent_s=2.0, message_s=4.0)


@pytest.fixture
def queue(tmp_path):
    folder = tmp_path / "queue"
    folder.mkdir(mode=0o700)
    return Queue(folder, "digest")


@pytest.fixture
def listen(queue):
    """A function that listens into the queue with other limits."""
    said = []

    def listen(limits=LIMITS, **changes):
        station = Station("127.0.0.1", 0, "PNEUMOJAX", ["MODALITY"], 4, 2.0, limits)._replace(**changes)
        return listening(station, queue, said.append)

    listen.said = said
    return listen


def associate(port, title="MODALITY", called="PNEUMOJAX"):
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 5
    entity.add_requested_context(Verification)
    for kind in (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation):
        entity.add_requested_context(kind, uid.ExplicitVRLittleEndian)
    entity.add_requested_context(uid.CTImageStorage)
    return entity.associate("127.0.0.1", port, ae_title=called)


def test_a_film_is_on_the_disk_when_it_is_acknowledged(tmp_path, queue, listen):
    paths = [film(tmp_path / f"{number}.dcm", number) for number in range(2)]
    with listen() as port:
        association = associate(port)
        assert association.is_established
        assert association.send_c_echo().Status == 0
        for number, path in enumerate(paths):
            assert association.send_c_store(pydicom.dcmread(path)).Status == 0
            name = queue.name_of(instance_uid(number))
            kept = pydicom.dcmread(queue.film(name))
            assert (kept.SOPInstanceUID, kept.PatientID) == (instance_uid(number), "ID-4711")
            assert kept.PixelData == pydicom.dcmread(path).PixelData
        # The same film again, while it waits and after it is done.
        assert association.send_c_store(pydicom.dcmread(paths[0])).Status == 0
        queue.finish(queue.name_of(instance_uid(0)))
        assert association.send_c_store(pydicom.dcmread(paths[0])).Status == 0
        association.release()
        assert queue.counts() == (1, 0)
        assert listen.said == []


def test_unknown_titles_and_other_kinds_are_refused(listen):
    with listen() as port:
        assert associate(port, title="STRANGER").is_rejected
        assert associate(port, called="OTHER").is_rejected
        association = associate(port)
        assert uid.CTImageStorage not in [context.abstract_syntax for context in association.accepted_contexts]
        association.release()


def test_a_film_that_cannot_be_kept_is_not_acknowledged(tmp_path, queue, listen):
    (tmp_path / "queue/films").rmdir()
    (tmp_path / "queue/films").write_bytes(b"")
    with listen() as port:
        association = associate(port)
        status = association.send_c_store(pydicom.dcmread(film(tmp_path / "film.dcm"))).Status
        assert status == 0xA700, "out of resources: the sender tries again"
        association.release()
    [line] = listen.said
    assert "cannot be kept" in line and STUDY not in line


def test_too_many_peers_at_once_are_refused(listen):
    with listen(associations=1) as port:
        first = associate(port)
        assert first.is_established and not associate(port).is_established
        first.release()


def test_a_film_that_is_too_large_ends_the_association(tmp_path, queue, listen):
    with listen() as port:
        association = associate(port)
        large = pydicom.dcmread(film(tmp_path / "film.dcm", size=400))
        answer = association.send_c_store(large)
        assert "Status" not in answer
        small = associate(port)
        assert small.send_c_store(pydicom.dcmread(film(tmp_path / "small.dcm", 1))).Status == 0
        small.release()
        assert queue.counts() == (1, 0)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack(">BBI", 1, 0, 0xFFFFFFFF) + b"x" * 100,  # a data unit of 4 GB
        struct.pack(">BBI", 4, 0, 20_000_000),
        b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
        b"\x01\x00\x00\x00",  # a part of a head, and then silence
    ],
)
def test_what_is_no_association_is_cut_off_within_the_limits(listen, content):
    with listen() as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(10)
            connection.sendall(content)
            started = time.monotonic()
            assert is_cut_off(connection)
            assert time.monotonic() - started < 6
        association = associate(port)
        assert association.send_c_echo().Status == 0
        association.release()


def test_a_peer_that_sends_a_byte_now_and_then_is_cut_off(listen):
    with listen(LIMITS._replace(message_s=1.0)) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(5)
        connection.sendall(struct.pack(">BBI", 1, 0, 200))
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - started < 5:
                connection.sendall(b"\0")
                time.sleep(0.2)
        assert time.monotonic() - started < 4


def test_other_addresses_are_refused(listen):
    limits = LIMITS._replace(hosts=frozenset({"10.0.0.7"}))
    with listen(limits) as port, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(5)
        assert is_cut_off(connection)


def is_cut_off(connection):
    """Read what comes, such as an abort; return whether the connection then ends."""
    try:
        while connection.recv(1000):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def test_one_address_may_open_so_many_connections_a_minute():
    now = [0.0]
    rates = Rates(3, clock=lambda: now[0])
    assert [rates.allowed("a") for _ in range(4)] == [True, True, True, False]
    assert rates.allowed("b")
    now[0] = 61.0
    assert rates.allowed("a")
