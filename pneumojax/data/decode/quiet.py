"""Silence for what image libraries say about the files that they decode."""

import logging
import warnings

# Pillow warns of corrupt EXIF, pydicom of files that bend the standard, and NumPy, with its parser, of NPY headers.
_WARNING_MODULES = r"PIL\.|pydicom\.|numpy\.lib|<unknown>|pneumojax\.data\.sources\.npz"


def quiet_decoders() -> None:
    """Ignore warnings and log messages about image files in this process from now on.

    pydicom's messages name files and quote their headers. The command line calls this, and so do the processes of
    `parallel.in_parallel`; a program that imports the package decides for itself. There is no way back, because
    ignoring warnings for a while is not safe in threads.
    """
    warnings.filterwarnings("ignore", module=_WARNING_MODULES)
    # Not the logger's level, which pydicom sets when it is imported.
    logger = logging.getLogger("pydicom")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
