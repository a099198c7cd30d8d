"""What every reader of image files shares: how it refuses one, and from what size on."""

from pneumojax.errors import one_line

MAX_PIXELS = 100_000_000  # a radiograph has up to about 20 million; more than this is a decompression bomb


class UnreadableImage(Exception):
    """The file holds no image that can be decoded; the message is the reason, in one line."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))
