"""What tells the files of one run from those of another: the identity that a run's config.json holds."""

import hashlib
from typing import NamedTuple

from etils import epath

from pneumojax.runtime.files import read_json
from pneumojax.runtime.workdir import CONFIG

KEY = "run"  # in config.json, beside the fields


class Identity(NamedTuple):
    """The identity of a run; empty texts in a run of 0.1.

    Attributes:
      id: of the settings, splits and images that the run started with.
      splits: SHA-256 of its table of splits.
      images: digest of the images' pixels, see `source.Prepared`.
    """

    id: str = ""
    splits: str = ""
    images: str = ""


def of_workdir(workdir: epath.Path) -> Identity:
    """Read the identity of the run in `workdir`; an empty one where it has none, or there is no run."""
    try:
        found = read_json(workdir / CONFIG)[KEY]
        return Identity(*(str(found[name]) for name in Identity._fields))
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError):
        return Identity()


def is_intact(splits: str, identity: Identity) -> bool:
    """Whether this is the table of splits that the run started with; also if nobody knows that."""
    return identity.splits in ("", sha256(splits))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
