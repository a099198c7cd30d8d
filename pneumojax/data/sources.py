"""Recognises what lies at a place and opens it."""

from pathlib import Path

from pneumojax.data import phantom
from pneumojax.data.folders import open_folders
from pneumojax.data.records import CLASSES, DEFAULTS, Options, Record, Source, file_fingerprint
from pneumojax.errors import UserError


def open_source(location: str, options: Options = DEFAULTS) -> Source:
    """Recognises what lies at `location`: "phantom", or a path to class folders.

    Raises:
      UserError: there is nothing there, or nothing that is recognised.
    """
    if location == "phantom":
        return _phantom()
    try:
        path = Path(location).expanduser()
        if not location or not path.exists():
            raise UserError(f"no such data: {location!r}; give a folder, or phantom")
        if not path.is_dir():
            raise UserError(f"{location} is a file; give the folder that holds the class folders, or phantom")
        str(path).encode()
        return _open_folder(path.resolve(), options)
    except UnicodeEncodeError:
        raise UserError(f"the name of {location!r} is not UTF-8, or the locale is not: rename it") from None
    except (OSError, RuntimeError) as error:  # such as no permission, or no such home as in ~nobody
        raise UserError(f"cannot open {location}: {getattr(error, 'strerror', None) or error}") from None


def _open_folder(root: Path, options: Options) -> Source:
    source = open_folders(root)
    if source is None:
        raise UserError(
            f"{root} holds no images in folders named {' and '.join(CLASSES)}, with or without train, val,"
            " test above: arrange them so"
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
    number = int(record.id.removeprefix(f"{record.split}/"))
    return phantom.render(0, phantom.cases(record.split)[number][0], record.label, size)[0]
