"""A storage service class provider: films come by C-STORE, and are acknowledged once they are on the disk."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # pyright: ignore[reportAttributeAccessIssue]

from pneumojax.data.decode.dicom_codecs import SYNTAXES
from pneumojax.pacs.guard import GuardedServer, Limits
from pneumojax.pacs.identity import is_uid
from pneumojax.pacs.queue import Queue

# Films that were scanned, or converted from other formats, are secondary captures.
_FILMS = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, SecondaryCaptureImageStorage)
_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000  # of the storage service, PS3.4 B.2.3


class Station(NamedTuple):
    """Where to listen, and to whom.

    Attributes:
      address: network address.
      port: TCP port.
      title: application entity title that peers must call.
      peers: titles of those that may call.
      associations: how many at a time.
      seconds: how long a peer may be silent.
      limits: of connections.
    """

    address: str
    port: int
    title: str
    peers: Sequence[str]
    associations: int
    seconds: float
    limits: Limits


@contextmanager
def listening(station: Station, queue: Queue, say: Callable[[str], None]) -> Iterator[int]:
    """Receive films into the queue while the block runs; yield the port.

    Raises:
      OSError: the port cannot be opened.
    """
    entity = AE(station.title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(station.peers)
    entity.maximum_associations = station.associations
    entity.maximum_pdu_size = station.limits.pdu_bytes
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = station.seconds
    entity.add_supported_context(Verification)
    for kind in _FILMS:
        entity.add_supported_context(kind, list(SYNTAXES))

    def store(event: evt.Event) -> int:
        return _store(event, queue, say)

    server = entity.make_server(
        (station.address, station.port), evt_handlers=[(evt.EVT_C_STORE, store)], server_class=GuardedServer
    )
    assert isinstance(server, GuardedServer)
    server.set_limits(station.limits)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        for association in entity.active_associations:
            association.abort()
        thread.join()


def _store(event: Any, queue: Queue, say: Callable[[str], None]) -> int:
    """Keep a film, and return the status for its sender."""
    uid = str(event.request.AffectedSOPInstanceUID)
    if not is_uid(uid):
        return _CANNOT_UNDERSTAND
    name = queue.name_of(uid)
    if queue.is_known(name):
        return _SUCCESS
    try:
        queue.add(name, event.encoded_dataset())
    except OSError as error:
        say(f"a film cannot be kept ({error.strerror or error}): its sender must send it again")
        return _OUT_OF_RESOURCES
    return _SUCCESS
