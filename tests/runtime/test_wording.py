"""Numbers in sentences."""

import pytest

from pneumojax.runtime.wording import counted


@pytest.mark.parametrize(("count", "words"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1000, "1,000 images")])
def test_the_noun_agrees_with_the_count(count, words):
    assert counted(count, "image") == words
