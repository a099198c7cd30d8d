"""What a report shows of the run's own images survives in the workdir."""

import numpy as np
import pytest
from etils import epath

from pneumojax.inference import report_pictures
from pneumojax.inference.report_pictures import Pictures, Sample
from pneumojax.inference.worst_errors import Neighbour, WorstError
from pneumojax.runtime.workdir import REPORT_PICTURES


def picture(grey, *channels):
    return np.full((8, 8, *channels), grey, np.uint8)


def error(name, neighbours):
    near = [Neighbour(f"near {grey}", grey % 2, grey / 100, picture(grey)) for grey in neighbours]
    return WorstError(name, 1, 0.25, picture(7), picture(9, 3), True, near)


def plain(pictures):
    """Return the pictures as nested lists, which compare as a whole."""
    if isinstance(pictures, np.ndarray):
        return pictures.tolist()
    return [plain(part) for part in pictures] if isinstance(pictures, tuple | list) else pictures


@pytest.mark.parametrize(
    "pictures",
    [
        Pictures([Sample("val", 0, 'a "b", ü', picture(1)), Sample("test", 1, "c", picture(2))],
                 [error("x", [3, 4]), error("y", []), error("z", [5])]),
        Pictures([], []),
    ],
    ids=["some", "none"],
)  # fmt: skip
def test_what_is_written_is_read(pictures, tmp_path):
    report_pictures.write(epath.Path(tmp_path), pictures)
    assert plain(report_pictures.read(epath.Path(tmp_path))) == plain(pictures)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 half a file"])
def test_a_missing_or_damaged_file_is_none(content, tmp_path):
    path = epath.Path(tmp_path) / REPORT_PICTURES
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    assert report_pictures.read(epath.Path(tmp_path)) is None
