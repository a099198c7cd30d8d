"""A PACS by DICOMweb: search (QIDO-RS), fetch (WADO-RS) and store (STOW-RS).

Errors of HTTP libraries quote URLs, which hold UIDs, so none of their messages is passed on.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, NamedTuple

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests.auth import AuthBase

from pneumojax.pacs.faults import Away, Refused
from pneumojax.pacs.identity import is_uid
from pneumojax.runtime.errors import UserError

_PAGE = 100  # results of a search that are asked for at once
_CHUNK = 1 << 20  # bytes
_LATER = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
_LATER |= {HTTPStatus.TOO_MANY_REQUESTS}
_STUDY, _SERIES, _INSTANCE, _MODALITY = "0020000D", "0020000E", "00080018", "00080060"
_FAILURE_REASON_DUPLICATE = 0x0111  # "duplicate SOP instance", of the storage service class


class Place(NamedTuple):
    """Where an instance is in a PACS, by its UIDs."""

    study: str
    series: str
    instance: str


class Archive:
    """A PACS. Each thread needs its own."""

    def __init__(
        self,
        url: str,
        authentication: Callable[[], AuthBase | None],
        *,
        ca_bundle: str = "",
        client_certificate: str = "",
        seconds: float = 30.0,
        max_bytes: int = 100_000_000,
    ):
        """Prepare to talk to the DICOMweb service at `url`.

        Args:
          url: of the service.
          authentication: reads how to authenticate; called again when the PACS lets nobody in.
          ca_bundle: PEM file of the authorities that sign the PACS's certificate; empty: those that requests knows.
          client_certificate: PEM file with this side's certificate and key; empty: none.
          seconds: how long the PACS may be silent.
          max_bytes: of a film.
        """
        self._url, self._authentication = url.rstrip("/"), authentication
        self._seconds, self._max_bytes = seconds, max_bytes
        self._session = requests.Session()
        self._session.trust_env = False  # neither proxies nor passwords that others have set
        self._session.verify = ca_bundle or True
        self._session.cert = client_certificate or None
        self._session.auth = authentication()
        self._client = DICOMwebClient(self._url, session=self._session, timeout=seconds)
        self._client.set_http_retry_params(retry=False)

    def studies(self, days: str) -> Iterator[str]:
        """Yield the UIDs of the studies of a day or a range of days, such as 20260131-20260202."""

        def page(first: int) -> list[Any]:
            return self._client.search_for_studies(
                limit=_PAGE, offset=first, search_filters={"StudyDate": days}, fields=[]
            )

        yield from (item[_STUDY] for item in self._paged(page, _STUDY))

    def films(self, study: str, modalities: Sequence[str]) -> Iterator[Place]:
        """Yield the instances of a study's series of these modalities."""

        def page(first: int) -> list[Any]:
            return self._client.search_for_series(study, limit=_PAGE, offset=first, fields=["Modality"])

        for item in self._paged(page, _SERIES, _MODALITY):
            if item.get(_MODALITY) in modalities:
                yield from self._instances(study, item[_SERIES])

    def _instances(self, study: str, series: str) -> Iterator[Place]:
        def page(first: int) -> list[Any]:
            return self._client.search_for_instances(study, series, limit=_PAGE, offset=first)

        yield from (Place(study, series, item[_INSTANCE]) for item in self._paged(page, _INSTANCE))

    def has(self, study: str, instance: str) -> bool:
        """Whether the PACS has an instance in a study."""
        with self._words():
            found = self._client.search_for_instances(study, search_filters={"SOPInstanceUID": instance}, limit=1)
        return any(_first(item, _INSTANCE) == instance for item in found)

    def fetch(self, place: Place) -> bytes:
        """Return the file of an instance, as the PACS keeps it.

        Raises:
          Refused: there is none, or it is too large.
        """
        url = f"{self._url}/studies/{place.study}/series/{place.series}/instances/{place.instance}"
        # Orthanc 1.10 knows no "transfer-syntax=*"; without one, it sends what it has.
        accept = 'multipart/related; type="application/dicom"'
        with self._words(), self._asked(url, accept) as response:
            response.raise_for_status()
            body = io.BytesIO()
            for chunk in response.iter_content(_CHUNK):
                body.write(chunk)
                if body.tell() > self._max_bytes + 10_000:
                    raise Refused(f"it has more than {self._max_bytes:,} bytes")
            return _part(body.getvalue(), response.headers.get("Content-Type", ""))

    def _asked(self, url: str, accept: str) -> requests.Response:
        return self._session.get(url, headers={"Accept": accept}, stream=True, timeout=self._seconds)

    def store(self, documents: Sequence[bytes]) -> None:
        """Store instances of one study. Storing them again changes nothing.

        Raises:
          Away: some are not stored yet.
          Refused: the PACS does not want one.
        """
        datasets = [pydicom.dcmread(io.BytesIO(content)) for content in documents]
        try:
            with self._words():
                answer = self._client.store_instances(datasets, str(datasets[-1].StudyInstanceUID))
        except Refused:
            if self._has_all(datasets):  # some servers refuse what they have
                return
            raise
        reasons = {int(item.get("FailureReason", 0)) for item in answer.get("FailedSOPSequence") or ()}
        reasons.discard(_FAILURE_REASON_DUPLICATE)
        if any(0xA700 <= reason <= 0xA7FF for reason in reasons):
            raise Away("the PACS is out of resources")
        if reasons:
            raise Refused(f"the PACS refuses it with reason {min(reasons):#06x}")
        stored = {str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence") or ()}
        missing = [one for one in datasets if str(one.SOPInstanceUID) not in stored]
        if not self._has_all(missing):
            raise Away("the PACS has stored a part of a result")

    def _has_all(self, datasets: Sequence[Dataset]) -> bool:
        return all(self.has(str(one.StudyInstanceUID), str(one.SOPInstanceUID)) for one in datasets)

    def _paged(self, search: Callable[[int], list[Any]], key: str, *more: str) -> list[dict[str, str]]:
        """Return the values of a search's results with a UID as `key`, each once; `search` takes the first's place."""
        found: dict[str, dict[str, str]] = {}
        while True:
            with self._words():
                page = search(len(found))
            before = len(found)
            for item in page:
                values = {name: value for name in (key, *more) if (value := _first(item, name))}
                if is_uid(values.get(key, "")):
                    found.setdefault(values[key], values)
            if len(page) < _PAGE or len(found) == before:  # some servers send all at once, whatever is asked
                return list(found.values())

    def _renew(self) -> None:
        """Read again how to authenticate: a token may have been renewed."""
        try:
            self._session.auth = self._authentication()
        except UserError as error:
            raise Away(str(error)) from None

    @contextmanager
    def _words(self) -> Iterator[None]:
        """Turn errors into `Away` and `Refused`, with words that quote nothing."""
        try:
            yield
        except requests.HTTPError as error:
            status = HTTPStatus.BAD_GATEWAY if error.response is None else error.response.status_code
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                self._renew()
            if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise Away(f"the PACS answers with status {status}{_meaning(status)}") from None
            raise Refused(f"the PACS answers with status {status}{_meaning(status)}") from None
        except requests.exceptions.SSLError:
            raise Away("the PACS and this side do not trust each other's certificates") from None
        except requests.Timeout:
            raise Away("the PACS is silent") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            raise Away("no connection to the PACS") from None
        except (requests.RequestException, AttributeError, KeyError, TypeError, ValueError):
            raise Away("the answer is not that of DICOMweb") from None


def _meaning(status: int) -> str:
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""


def _first(item: Any, tag: str) -> str:
    """Return the first value of an element in DICOM's JSON; empty if there is none."""
    values = item.get(tag, {}).get("Value") or [""] if isinstance(item, dict) else [""]
    return values[0] if isinstance(values[0], str) else ""


def _part(body: bytes, content_type: str) -> bytes:
    """Return the only part of a multipart body, or a body that is none."""
    if not content_type.lower().startswith("multipart/"):
        return body
    _, _, rest = body.partition(b"\r\n\r\n")
    content, delimiter, _ = rest.rpartition(b"\r\n--")
    if not delimiter:
        raise Away("the PACS has sent a part of a film")
    return content
