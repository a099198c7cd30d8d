"""Recognises what lies at a place and opens it."""

from pathlib import Path

from pneumojax.data import images, phantom
from pneumojax.data.records import CLASSES, DEFAULTS, Options, Record, Source, file_fingerprint
from pneumojax.data.sources.chexpert import open_chexpert
from pneumojax.data.sources.folders import open_folders
from pneumojax.data.sources.npz import open_npz
from pneumojax.data.sources.table import open_single, open_table
from pneumojax.errors import UserError


def open_source(location: str, options: Options = DEFAULTS) -> Source:
    """Recognises what lies at `location`.

    Args:
      location: "phantom"; "tfds:NAME"; or a path to an NPZ file with MedMNIST's keys, to one image file, or to a
        folder: a CheXpert tree, class folders, or images with a CSV of labels.
      options: for what a source leaves to choose.

    Raises:
      UserError: there is nothing there, or nothing that is recognised.
    """
    if location == "phantom":
        return _phantom()
    if location.startswith("tfds:"):
        from pneumojax.data.sources.tfds_name import open_tfds  # it imports TensorFlow

        return open_tfds(location)
    try:
        path = Path(location).expanduser()
        if not location or not path.exists():
            raise UserError(f"no such data: {location!r}; give a folder, an .npz file, tfds:NAME, or phantom")
        str(path).encode()
        if not path.is_dir() and not path.is_file():
            raise UserError(f"{path} is a pipe or a device: give a folder or a file")
        return (_open_folder if path.is_dir() else _open_file)(path.resolve(), options)
    except UnicodeEncodeError:
        raise UserError(f"the name of {location!r} is not UTF-8, or the locale is not: rename it") from None
    except (OSError, RuntimeError) as error:  # such as no permission, or no such home as in ~nobody
        raise UserError(f"cannot open {location}: {getattr(error, 'strerror', None) or error}") from None


def _open_file(path: Path, options: Options) -> Source:
    if path.suffix.lower() == ".npz":
        return open_npz(path)
    if path.suffix.lower() in images.SUFFIXES:
        return open_single(path)
    raise UserError(f"{path} is neither an .npz file nor an image: give one, or a folder of images")


def _open_folder(root: Path, options: Options) -> Source:
    if options.labels:
        return open_table(root, options.labels)
    source = open_chexpert(root, options) or open_folders(root) or open_table(root, "")
    if source is None:
        raise UserError(
            f"{root} holds no images in folders named {' and '.join(CLASSES)}, with or without train, val, test above,"
            " and no CSV with ids and labels: arrange them so"
        )
    return source


def _phantom() -> Source:
    records = {
        f"{split}/{number:04d}": (split, label)
        for split in phantom.SPLITS
        for number, (_, label) in enumerate(phantom.cases(split))
    }
    return Source(
        name="phantom",
        location="phantom",
        records=tuple(Record(id, label, id, split) for id, (split, label) in sorted(records.items())),
        fingerprint=file_fingerprint([Path(phantom.__file__)]),
        read=_draw,
        notice="Synthetic phantoms drawn from formulas, not radiographs of patients.",
    )


def _draw(record, size):
    return phantom.draw(record.id, record.label, size)[0]
