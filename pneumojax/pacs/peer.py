"""Results to an application entity, by C-STORE."""

import io
from collections.abc import Sequence

import pydicom
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE

from pneumojax.pacs.faults import Away, Refused
from pneumojax.pacs.pacs_settings import Peer

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_DUPLICATE = 0x0111


def store(documents: Sequence[bytes], peer: Peer, title: str, seconds: float) -> None:
    """Store instances at a peer; `title` is our own. Storing them again changes nothing.

    Raises:
      Away: some are not stored yet.
      Refused: the peer does not want one.
    """
    entity = AE(title)
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = seconds
    for kind in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
        entity.add_requested_context(kind, _SYNTAXES)
    association = entity.associate(peer.host, peer.port, ae_title=peer.title)
    if not association.is_established:
        raise Away("the peer refuses the association" if association.is_rejected else "no connection to the peer")
    try:
        for content in documents:
            dataset = pydicom.dcmread(io.BytesIO(content))
            try:
                status = association.send_c_store(dataset)
            except ValueError:  # pynetdicom's where no presentation context was accepted
                raise Refused("the peer takes no such document") from None
            except RuntimeError:  # the association has ended
                raise Away("the association with the peer has ended") from None
            _judge(status.get("Status") if status else None)
    finally:
        association.release()


def _judge(status: int | None) -> None:
    """Raise an error for a status of the storage service (PS3.4, table B.2-1) that is none of success."""
    if status is None:
        raise Away("the peer does not answer")
    if status == 0 or status == _DUPLICATE or 0xB000 <= status <= 0xBFFF:
        return
    if 0xA700 <= status <= 0xA7FF:
        raise Away(f"the peer is out of resources (status {status:#06x})")
    raise Refused(f"the peer refuses it with status {status:#06x}")
