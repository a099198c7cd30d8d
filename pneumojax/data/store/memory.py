"""Prepared images in this process's memory, for installations without the packages that write shards."""

from functools import partial

import numpy as np

from pneumojax.data.audit.duplicates import content_of, same_pictures, signature
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.parallel import Watched, in_parallel, unwatched
from pneumojax.data.source import Prepared, Record, Source, refuse_unreadable, try_read
from pneumojax.data.tensorflow_import import INSTALL
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.wording import counted

LIMIT = 1 << 30  # bytes: 47,000 images of 150 px


def hold(
    source: Source,
    *,
    size: int,
    on_error: str = "fail",
    limit: int | None = LIMIT,
    workers: int = 0,
    watched: Watched = unwatched,
) -> Prepared:
    """Read the source's images into memory; the result equals that of `builder.prepare`, which writes shards.

    `size` and `on_error` are as there, `workers` and `watched` as in `builder.Means`.

    Raises:
      UserError: the images take more bytes than the limit, if any.
      UnreadableImages: some are unreadable and `on_error` is "fail"; the message counts all and names the first few.
    """
    records = source.records
    if limit is not None and len(records) * size**2 > limit:
        raise UserError(
            f"{counted(len(records), 'image')} of {size} px would take more than {limit:,} bytes of memory, and the"
            f" packages that write shards are not installed: {INSTALL}; or set --config.data.resident=always"
        )
    images = np.zeros((len(records), size, size, 1), np.uint8)
    places, unreadable, signatures = {}, {}, {}
    read = partial(_signed, source._replace(records=()), size)
    results = watched(in_parallel(read, records, workers), len(records))
    for place, (record, result) in enumerate(zip(records, results, strict=True)):
        if isinstance(result, UnreadableImage):
            unreadable[record.id] = str(result)
        else:
            images[place, :, :, 0], signatures[record.id] = result
            places[record.id] = place
    if on_error == "fail":
        refuse_unreadable(unreadable)
    identical, near_equal = same_pictures(signatures)
    return Prepared(places, unreadable, identical, near_equal, content_of(signatures), read=images.__getitem__)


def _signed(source: Source, size: int, record: Record) -> tuple[np.ndarray, bytes] | UnreadableImage:
    """Return the image, (size, size) uint8, and its signature; or why it cannot be read."""
    image = try_read(source, size, record)
    return image if isinstance(image, UnreadableImage) else (image, signature(image))
