"""What the tests of the server share: small limits, a small page, and films."""

from PIL import Image
from support import encoded

from pneumojax.data.sources import phantom
from pneumojax.export.try_page import Page
from pneumojax.serving.serve_settings import Limits

LIMITS = Limits(queue=8, films=4, bytes=1_000_000, seconds=20.0)
PAGE = Page(b"<!DOCTYPE html><title>\x80</title>", "default-src 'none'")


def film(number: int) -> bytes:
    return encoded(Image.fromarray(phantom.render(5, number, number % 2, 48)[0]))
