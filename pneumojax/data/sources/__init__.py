"""Recognise and open whatever lies at a location."""

import re
from collections.abc import Mapping
from pathlib import Path

from pneumojax.data.decode import images
from pneumojax.data.patients import is_dicom, named_by
from pneumojax.data.source import CLASSES, DEFAULTS, Options, Source, is_csv
from pneumojax.data.sources import label_table, sites
from pneumojax.data.sources.chexpert import open_chexpert
from pneumojax.data.sources.films import open_single, open_unlabelled
from pneumojax.data.sources.folders import open_folders, subfolders
from pneumojax.data.sources.listing import below
from pneumojax.data.sources.metadata import described
from pneumojax.data.sources.npz import open_npz
from pneumojax.runtime.errors import UserError


def open_source(location: str, options: Options = DEFAULTS, labelled: bool = True) -> Source:
    """Open the source at `location`.

    Args:
      location: "phantom"; "tfds:NAME"; or a path to an NPZ file with MedMNIST's keys, to one image file, or to a
        folder: a CheXpert tree, class folders, or images with a CSV of labels. Or several of these, each with the name
        of a site: NAME=PLACE,NAME=PLACE.
      options: the user's choices, for sources that leave any.
      labelled: whether a folder of images must have labels.

    Raises:
      UserError: there is nothing there, or nothing that is recognised.
    """
    if places := sites.places(location):
        return _open_sites(places, options, labelled)
    if location == "phantom" and not options.patient_pattern:
        return _phantoms()
    return named_by(_open(location, options, labelled), options.patient_pattern)


def _open_sites(places: Mapping[str, str], options: Options, labelled: bool) -> Source:
    if options.labels and len(places) > 1:
        raise UserError("--config.data.labels is for one folder: with several sites, put each CSV into its own folder")
    opened = {}
    for name, place in places.items():
        try:
            opened[name] = _open(place, options, labelled)
        except UserError as error:
            raise UserError(f"site {name}: {error}") from None
    pattern = options.patient_pattern
    fitting = {name for name, source in opened.items() if any(re.search(pattern, r.id) for r in source.records)}
    named = {
        name: named_by(source, pattern if name in fitting or not fitting else "") for name, source in opened.items()
    }
    return sites.joined(named)


def _open(location: str, options: Options, labelled: bool) -> Source:
    if location == "phantom":
        return _phantoms()
    if location.startswith("tfds:"):
        from pneumojax.data.sources.tfds_dataset import open_tfds  # it imports TensorFlow

        return open_tfds(location)
    try:
        path = Path(location).expanduser()
        if not location or not path.exists():
            raise UserError(f"no such data: {location!r}; give a folder, an .npz file, tfds:NAME, or phantom")
        str(path).encode()
        if not path.is_dir() and not path.is_file():
            raise UserError(f"{path} is a pipe or a device: give a folder or a file")
        path = path.resolve()
        return _open_folder(path, options, labelled) if path.is_dir() else _open_file(path, labelled)
    except UnicodeEncodeError:
        raise UserError(f"the name of {location!r} is not UTF-8, or the locale is not: rename it") from None
    except (OSError, RuntimeError) as error:  # such as no permission, or no such home as in ~nobody
        raise UserError(f"cannot open {location}: {getattr(error, 'strerror', None) or error}") from None


def _phantoms() -> Source:
    from pneumojax.data.sources.phantom import open_phantom  # it imports SciPy, which takes as long as NumPy

    return open_phantom()


def _open_file(path: Path, labelled: bool) -> Source:
    if path.suffix.lower() == ".npz":
        return _open_npz(path, labelled)
    if path.suffix.lower() in images.SUFFIXES or is_dicom(path):
        return open_single(path)
    raise UserError(f"{path} is neither an .npz file nor an image: give one, or a folder of images")


def _open_npz(path: Path, labelled: bool) -> Source:
    try:
        return open_npz(path)
    except UserError:
        if labelled:
            raise
        return open_npz(path, labelled=False)


def _open_folder(root: Path, options: Options, labelled: bool) -> Source:
    source = _open_labelled(root, options) or (None if labelled else open_unlabelled(root))
    if source is None:
        lacking = _lacking(root)
        raise UserError(
            f"{root} holds no images in folders named {' and '.join(CLASSES)}, with or without train, val, test above,"
            f" and no CSV with ids and labels{lacking and f' ({lacking})'}: arrange it in one of these ways"
        )
    return described(source, options)


def _open_labelled(root: Path, options: Options) -> Source | None:
    if options.labels:
        return label_table.open_table(root, options)
    source = open_chexpert(root, options) or open_folders(root) or label_table.open_table(root, options)
    folders = subfolders(root)
    # An archive often unpacks to a single folder that holds the rest.
    return _open_labelled(folders[0][0], options) if source is None and len(folders) == 1 else source


def _lacking(root: Path) -> str:
    """Return what is wrong with the first CSV below a folder; empty if there is none."""
    for found in below(root):
        if is_csv(found.name):
            return label_table.lacking(root / found.name)
    return ""
