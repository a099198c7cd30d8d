"""What the tests of image files share."""

import pytest
from support import encoded

from pneumojax.data.decode import images


@pytest.fixture
def read(tmp_path):
    """Read an encoded image, or a PIL image saved as PNG, at the given size."""

    def read(content, size=8, name="x.png"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else encoded(content))
        return images.read(path, size)

    return read
