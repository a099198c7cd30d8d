"""Importing the readers of images silences nothing in a user's program; `quiet_decoders` does."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, warnings
from pneumojax.data import parallel, sources
from pneumojax.data.decode import dicom, dicom_codecs, images
from pneumojax.data.decode.quiet import quiet_decoders

def warn_and_log():
    for module in ("PIL.Image", "pydicom.filereader", "numpy.lib.format"):
        warnings.warn_explicit("odd file", UserWarning, "file.py", 1, module)
    logging.getLogger("pydicom.pixels").error("odd file")

logging.basicConfig()
warn_and_log()
quiet_decoders()
quiet_decoders()
warn_and_log()
"""


def test_warnings_are_visible_until_quiet_decoders_is_called():
    command = [sys.executable, "-W", "always", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning: odd file") == 3
    assert done.stderr.count("ERROR:pydicom.pixels:odd file") == 1
