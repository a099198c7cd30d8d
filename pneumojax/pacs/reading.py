"""A film as it is read in a process of its own: the model's square, a picture for the reader, and its header."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydicom.dataset import Dataset

from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.sources.unlabelled import Seen, look_at_whole_file
from pneumojax.pacs import source

PICTURE_SIDE = 1024  # px; the picture is for looking, and the film itself stays in the PACS


class Film(NamedTuple):
    """A film that can be predicted.

    Attributes:
      seen: what the model sees of it, with quality flags, as in `--mode=predict`.
      picture: the whole film, with its aspect ratio, neither side above `PICTURE_SIDE`.
      source: what its results take over from its header.
    """

    seen: Seen
    picture: UInt8[np.ndarray, "height width"]
    source: Dataset


def read(path: str, size: int) -> Film | UnreadableImage:
    """Read a film for a model that takes squares of `size` pixels.

    Returns:
      The film; or why there can be no report: it is lateral, no chest, of several frames, unreadable, or damaged.
    """
    try:
        header = source.read(Path(path))
        seen, pixels = look_at_whole_file(path, size)
        if seen.image is None or pixels is None:
            return UnreadableImage(seen.problem)
        if "lateral" in seen.flags:
            return UnreadableImage(source.LATERAL)
        return Film(seen, _picture(pixels), header)
    except UnreadableImage as reason:
        return reason
    except OSError as error:
        return UnreadableImage(error.strerror or "it cannot be read")
    except Exception:  # on broken data, pydicom raises errors of many kinds, which quote the header
        return UnreadableImage("broken DICOM: its header cannot be read")


def _picture(pixels: UInt8[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "height width"]:
    image = Image.fromarray(pixels)
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image)
