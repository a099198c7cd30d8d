"""Images that stay in this process's memory: what preparing gives where nothing writes shards."""

from functools import partial

import numpy as np

from pneumojax.data.prepared import Prepared, same_pictures, signature
from pneumojax.data.quiet_tensorflow import INSTALL
from pneumojax.data.readers import refuse_unreadable, try_read
from pneumojax.data.records import Record, Source
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.data.workers import Watched, in_parallel, unwatched
from pneumojax.errors import UserError

LIMIT = 1 << 30  # bytes of images: 47,000 of 150 px


def hold(
    source: Source,
    *,
    size: int,
    on_error: str = "fail",
    limit: int | None = LIMIT,
    workers: int = 0,
    watched: Watched = unwatched,
) -> Prepared:
    """The source's images, read once; otherwise as `prepare.prepare`, which keeps them in shards.

    Args:
      source: where the images come from.
      size: side of the images in pixels.
      on_error: "fail" or "skip", of unreadable images.
      limit: bytes that the images may take; None for any.
      workers: processes; see `in_parallel`.
      watched: tells of the reading; see `log.watching`.

    Raises:
      UserError: the images take more than `limit`; or some are unreadable and `on_error` is "fail": all of them are
        counted, the first few named.
    """
    records = source.records
    if limit is not None and len(records) * size**2 > limit:
        raise UserError(
            f"{len(records):,} images of {size} px are too many to train on from memory, and the shards that would hold"
            f" them need what is not installed: {INSTALL}; or, if the memory is there, --config.data.resident=always"
        )
    images = np.zeros((len(records), size, size, 1), np.uint8)
    places, unreadable, signatures = {}, {}, {}
    read = partial(_signed, source._replace(records=()), size)
    for place, (record, found) in enumerate(
        zip(records, watched(in_parallel(read, records, workers), len(records)), strict=True)
    ):
        if isinstance(found, UnreadableImage):
            unreadable[record.id] = str(found)
        else:
            images[place, :, :, 0], signatures[record.id] = found
            places[record.id] = place
    if on_error == "fail":
        refuse_unreadable(unreadable)
    return Prepared(places, unreadable, read=images.__getitem__, **same_pictures(signatures))


def _signed(source: Source, size: int, record: Record) -> tuple[np.ndarray, bytes] | UnreadableImage:
    """The image, (size, size) uint8, and its signature; or why there is none."""
    image = try_read(source, size, record)
    return image if isinstance(image, UnreadableImage) else (image, signature(image))
