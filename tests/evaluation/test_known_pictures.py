"""Copies of pictures that a model has seen are found, whatever file they are in; other pictures are not."""

import io

import numpy as np
import pytest
from PIL import Image

from pneumojax.data.decode import images
from pneumojax.data.source import Split
from pneumojax.data.sources import phantom
from pneumojax.evaluation import known_pictures

SIDE = 150


@pytest.fixture(scope="module")
def pictures():
    return [phantom.render(9, number, number % 2, SIDE)[0] for number in range(40)]


def hashes(pictures):
    return np.stack([known_pictures.hash_of(picture) for picture in pictures])


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


COPIES = {
    "the same file": lambda image: image,
    "another encoding": lambda image: jpeg(image, 60),
    "half the size": lambda image: image.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS),
    "another shape": lambda image: image.resize((400, 300), Image.Resampling.BICUBIC),
    "brighter": lambda image: image.point(lambda grey: min(255, round(1.1 * grey))),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_copy_of_a_seen_picture_is_known(pictures, change):
    copies = [images.resize(change(Image.fromarray(picture)).convert("L"), SIDE) for picture in pictures]
    assert known_pictures.known(hashes(pictures), hashes(copies)).all()


def test_another_picture_is_not_known(pictures):
    assert not known_pictures.known(hashes(pictures[:20]), hashes(pictures[20:])).any()


def test_nothing_is_known_to_a_model_without_hashes(pictures):
    assert known_pictures.known(np.zeros((0, 32), np.uint8), hashes(pictures)).tolist() == [False] * 40


def test_the_result_does_not_depend_on_how_many_hashes_are_compared_at_a_time(pictures):
    seen, asked = hashes(pictures[::2]), hashes(pictures)
    expected = [True, False] * 20
    for compared in (1, 20, 21, 1000):
        assert known_pictures.known(seen, asked, compared).tolist() == expected


def test_each_image_is_read_once(pictures):
    """Also those that another process of the job has read for itself."""
    reads = []

    def read(indices):
        reads.extend(indices.tolist())
        return np.stack([pictures[index] for index in indices])[..., None]

    ids = np.array([str(number) for number in range(10)])
    hashed = known_pictures.hashing(Split("test", ids, np.zeros(10, np.uint8), read))
    hashed.split.read(np.array([3, 4, 5]))
    assert np.array_equal(known_pictures.complete(hashed), hashes(pictures[:10]))
    assert sorted(reads) == list(range(10))


def test_pictures_without_detail_are_not_known():
    """All have one hash, so that a black film in training would make every blank one known."""
    blank = [np.full((64, 64), level, np.uint8) for level in (0, 90)]
    first, second = (np.stack([known_pictures.hash_of(picture)]) for picture in blank)
    assert not known_pictures.known(first, second).any()
