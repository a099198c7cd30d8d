"""User and password, or a token, for a PACS: from the environment or a file, and never shown."""

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import expanded

USER, PASSWORD, TOKEN = "PNEUMOJAX_PACS_USER", "PNEUMOJAX_PACS_PASSWORD", "PNEUMOJAX_PACS_TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Bearer(AuthBase):
    """Bearer authentication (RFC 6750)."""

    def __init__(self, token: str):
        """Authenticate by a token."""
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the token to a request."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def read(path: str, url: str, environment: Mapping[str, str] = os.environ) -> AuthBase | None:
    """Return how to authenticate at `url`: by the TOML file at `path`, or else by the environment; None for not at all.

    Raises:
      UserError: the file cannot be read, others can read it, it has other names, or the secret would go over the
        network in the clear.
    """
    found = _file(path) if path else {}
    if not path:
        names = {"user": USER, "password": PASSWORD, "token": TOKEN}
        found = {name: environment[variable] for name, variable in names.items() if environment.get(variable)}
    if not found:
        return None
    url_parts = urlsplit(url)
    if url_parts.scheme != "https" and url_parts.hostname not in _LOOPBACK:
        raise UserError("a password or a token would go over the network in the clear: use https in pacs.dicomweb")
    if found.keys() == {"token"}:
        return Bearer(found["token"])
    if found.keys() == {"user", "password"}:
        return HTTPBasicAuth(found["user"].encode(), found["password"].encode())
    raise UserError("give user and password, or token alone, for the PACS: see the documentation of pacs.credentials")


def _file(path: str) -> dict[str, str]:
    place = Path(expanded(path))
    try:
        if stat.S_IMODE(place.stat().st_mode) & 0o007:
            raise UserError(f"everybody can use {path}, which holds a secret: chmod 600 {path}")
        found = tomllib.loads(place.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):  # their messages quote the file
        raise UserError(f"{path} is no TOML: write user and password, or token") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not all(isinstance(value, str) and value and value.isprintable() for value in found.values()):
        raise UserError(f"{path} must hold texts alone: user and password, or token")
    return found
