"""A TFDS dataset by its name: any that has an image and a label of two classes."""

import contextlib
import io
import socket
from functools import lru_cache, partial
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from pneumojax.data import images
from pneumojax.data.quiet_tensorflow import import_tfds
from pneumojax.data.records import SPLITS, Record, Source, name_of
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.errors import UserError, unknown

PREFIX = "tfds:"


def open_tfds(location: str) -> Source:
    """The dataset "tfds:NAME", or "tfds:NAME/CONFIG:VERSION", which TFDS downloads once into its own folder.

    The class whose name has "pneumonia" in it is pneumonia; where neither or both have, the second is.

    Raises:
      UserError: there is no such dataset, it has no image or no label of two classes, or it cannot be downloaded.
    """
    name = location.removeprefix(PREFIX)
    builder = _builder(name)
    image, label = _features(builder, name)
    _download(builder, name)
    classes = builder.info.features[label].names
    positive = next((i for i, told in enumerate(classes) if "pneumonia" in told.lower()), 1)
    if "pneumonia" in classes[1 - positive].lower():
        positive = 1
    records = [
        Record(id := f"{split}/{number:06d}", int(found == positive), id, SPLITS[split])
        for split in builder.info.splits
        if split in SPLITS
        for number, found in enumerate(_labels(builder, split, image, label))
    ]
    if not records:
        raise UserError(f"{location} has no split named {', '.join(SPLITS)}")
    return Source(
        name=name_of(location),
        location=location,
        records=tuple(records),
        fingerprint=builder.info.full_name,
        read=partial(_read, name, image),
        remarks=(f"Classes of {name}: {classes[positive]!r} is pneumonia, {classes[1 - positive]!r} is normal.",),
    )


def _builder(name: str):
    tfds = import_tfds()
    try:
        return tfds.builder(name, file_format="array_record", try_gcs=False)
    except Exception as error:  # no such dataset, config or version; or its code cannot be imported
        if name.partition("/")[0].partition(":")[0] not in tfds.list_builders():
            raise unknown("TFDS dataset", name, tfds.list_builders()) from None
        raise UserError(f"TFDS has no {name!r}: {_line(error)}") from None


def _features(builder, name: str) -> tuple[str, str]:
    """The names of the image and of the label."""
    tfds = import_tfds()
    features = builder.info.features
    kinds = features.items() if hasattr(features, "items") else ()
    images = [key for key, kind in kinds if isinstance(kind, tfds.features.Image)]
    labels = [key for key, kind in kinds if isinstance(kind, tfds.features.ClassLabel) and kind.num_classes == 2]
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{PREFIX}{name} has {len(images)} images and {len(labels)} labels of two classes: one of each is needed"
        )
    return images[0], labels[0]


def _download(builder, name: str) -> None:
    if builder.is_prepared():
        return
    tfds = import_tfds()
    _require_network(builder, name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces what it does
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # no space, a server that fails, or files that must be downloaded by hand
        raise UserError(f"{PREFIX}{name} cannot be downloaded: {_line(error)}") from None


def _require_network(builder, name: str) -> None:
    """Raises UserError if a host cannot be found that the dataset comes from: TFDS would try for minutes."""
    for host in sorted({urlsplit(url).hostname for url in builder.url_infos} - {None}):
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            raise UserError(
                f"{PREFIX}{name} must be downloaded once, from {host}, which is not reached: connect to a network"
            ) from None


def _labels(builder, split: str, image: str, label: str) -> list[int]:
    tfds = import_tfds()
    rows = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
    return [int(row[label]) for row in rows]


@lru_cache(maxsize=4)
def _rows(name: str, split: str):
    return _builder(name).as_data_source(split)


def _read(name: str, image: str, record: Record, size: int) -> np.ndarray:
    """`Source.read`."""
    split, number = record.id.split("/")
    try:
        pixels = np.asarray(_rows(name, split)[int(number)][image])
        return images.resize(images.grey(Image.fromarray(pixels.squeeze())), size)
    except Exception as error:  # whatever a damaged shard makes its readers raise
        raise UnreadableImage(_line(error)) from None


def _line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]
