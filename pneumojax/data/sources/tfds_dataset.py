"""A TFDS dataset by name: any with one image and one label of two classes."""

import contextlib
import io
import socket
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from pneumojax.data.decode import images
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.source import SPLIT_NAMES, Record, Source, name_of
from pneumojax.data.tensorflow_import import import_tfds
from pneumojax.runtime.errors import UserError, unknown
from pneumojax.runtime.wording import counted

PREFIX = "tfds:"


def open_tfds(location: str) -> Source:
    """Open "tfds:NAME" or "tfds:NAME/CONFIG:VERSION", which TFDS downloads once into its own folder.

    The class with "pneumonia" in its name is pneumonia; if neither or both have it, the second class is.

    Raises:
      UserError: there is no such dataset, it has no image or no label of two classes, or it cannot be downloaded.
    """
    name = location.removeprefix(PREFIX)
    builder = _builder(name)
    image, label = _features(builder, name)
    _download(builder, name)
    classes = builder.info.features[label].names
    positive = 0 if ["pneumonia" in title.lower() for title in classes] == [True, False] else 1
    records = [
        Record(id := f"{split}/{number:06d}", int(stored_label == positive), id, SPLIT_NAMES[split])
        for split in builder.info.splits
        if split in SPLIT_NAMES
        for number, stored_label in enumerate(_labels(builder, split, image, label))
    ]
    if not records:
        raise UserError(f"{location} has no split named {', '.join(SPLIT_NAMES)}: choose another dataset")
    return Source(
        name=name_of(location),
        location=location,
        records=tuple(records),
        fingerprint=builder.info.full_name,
        read=partial(_read, name, image),
        remarks=(f"Classes of {name}: {classes[positive]!r} is pneumonia, {classes[1 - positive]!r} is normal.",),
    )


def _builder(name: str) -> Any:
    tfds = import_tfds()
    try:
        return tfds.builder(name, file_format="array_record", try_gcs=False)
    except Exception as error:  # no such dataset, config or version; or its code cannot be imported
        if name.partition("/")[0].partition(":")[0] not in tfds.list_builders():
            raise unknown("TFDS dataset", name, tfds.list_builders()) from None
        raise UserError(f"TFDS has no {name!r}: {_line(error)}; choose another dataset") from None


def _features(builder: Any, name: str) -> tuple[str, str]:
    """Return the names of the image and of the label."""
    tfds = import_tfds()
    features = builder.info.features
    kinds = features.items() if hasattr(features, "items") else ()
    pictures = [key for key, kind in kinds if isinstance(kind, tfds.features.Image)]
    labels = [key for key, kind in kinds if isinstance(kind, tfds.features.ClassLabel) and kind.num_classes == 2]
    if len(pictures) != 1 or len(labels) != 1:
        raise UserError(
            f"{PREFIX}{name} has {counted(len(pictures), 'image')} and {counted(len(labels), 'label')} of two classes"
            " per example: choose a dataset with one of each"
        )
    return pictures[0], labels[0]


def _download(builder: Any, name: str) -> None:
    if builder.is_prepared():
        return
    tfds = import_tfds()
    _require_network(builder, name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints what it does
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # no space, a server that fails, or files that must be downloaded by hand
        raise UserError(f"{PREFIX}{name} cannot be downloaded: {_line(error)}") from None


def _require_network(builder: Any, name: str) -> None:
    """Raise UserError if a host of the dataset cannot be found, because TFDS would try for minutes."""
    for host in sorted({urlsplit(url).hostname for url in builder.url_infos} - {None}):
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            raise UserError(
                f"{PREFIX}{name} must be downloaded once, but {host} cannot be reached: connect to a network"
            ) from None


def _labels(builder: Any, split: str, image: str, label: str) -> list[int]:
    rows = builder.as_data_source(split, decoders={image: import_tfds().decode.SkipDecoding()})
    return [int(row[label]) for row in rows]


@lru_cache(maxsize=4)
def _rows(name: str, split: str) -> Any:
    return _builder(name).as_data_source(split)


def _read(name: str, image: str, record: Record, size: int) -> np.ndarray:
    """`Source.read`."""
    split, number = record.id.split("/")
    try:
        pixels = np.asarray(_rows(name, split)[int(number)][image])
        return images.resize(images.grey(Image.fromarray(pixels.squeeze())), size)
    except Exception as error:  # damaged shards make their readers raise errors of many kinds
        raise UnreadableImage(_line(error)) from None


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
