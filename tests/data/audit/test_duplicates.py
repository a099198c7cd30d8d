"""Copies of a picture are found however they were made; similar pictures are no copies."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import fft

from pneumojax.data.audit import duplicates
from pneumojax.data.audit.duplicates import identical, near_equal, perceptual_hash, thumbnail
from pneumojax.data.decode import images
from pneumojax.data.sources import open_source, phantom

REAL = Path(__file__).parents[4] / "shared" / "data" / "kermany_224"


def encoded(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def scaled(image, across, down):
    return image.resize((round(image.width * across), round(image.height * down)), Image.Resampling.BICUBIC)


def contrast(image, factor):
    mean = np.asarray(image).mean()
    return image.point(lambda value: round((value - mean) * factor + mean))


COPIES = {
    "quality 50": lambda image: encoded(image, 50),
    "quality 75, as RGB": lambda image: encoded(image.convert("RGB"), 75),
    "smaller": lambda image: scaled(image, 0.7, 0.7),
    "larger, quality 85": lambda image: encoded(scaled(image, 1.3, 1.3), 85),
    "squashed": lambda image: scaled(image, 1.4, 0.8),
    "brighter": lambda image: image.point(lambda value: round(value * 1.05)),
    "lighter": lambda image: image.point(lambda value: value + 13),
    "darker": lambda image: image.point(lambda value: value - 13),
    "more contrast": lambda image: contrast(image, 1.05),
    "less contrast": lambda image: contrast(image, 0.95),
    "all at once": lambda image: encoded(contrast(scaled(image, 0.7, 0.7), 1.05), 50),
}


def test_a_hash_is_that_of_scipys_transform(phantoms):
    """A run's index holds hashes that SciPy's cosine transform made before."""
    rng = np.random.default_rng(0)
    flat = [np.full((60, 60), level, np.uint8) for level in (0, 7, 128, 255)]
    for image in [*map(np.asarray, phantoms), *rng.integers(0, 256, (20, 60, 60), np.uint8), *flat]:
        small = Image.fromarray(image).convert("F").resize((32, 32), Image.Resampling.BOX)
        low = np.asarray(fft.dctn(np.asarray(small)))[:16, :16]
        low[0, 0] = 0
        assert perceptual_hash(image) == np.packbits(low > 0).tobytes()


def groups(squares):
    return near_equal([perceptual_hash(image) for image in squares], [thumbnail(image) for image in squares])


def square(image, side):
    return images.resize(images.grey(image), side)


@pytest.fixture(scope="module")
def phantoms():
    return [Image.fromarray(phantom.render(3, index, index % 2, 224)[0]) for index in range(40)]


def test_equal_digests_are_grouped_in_order():
    assert identical([b"a", b"b", b"c", b"b", b"a", b"b"]) == [[0, 4], [1, 3, 5]]
    assert identical(["a", "b"]) == identical([]) == []


@pytest.mark.parametrize("side", [28, 64, 150])
@pytest.mark.parametrize("kind", COPIES)
def test_every_copy_is_found_and_nothing_else(phantoms, kind, side):
    squares = [square(image, side) for image in [*phantoms, *map(COPIES[kind], phantoms)]]
    assert groups(squares) == [[i, i + len(phantoms)] for i in range(len(phantoms))]


def test_copies_of_copies_are_one_group(phantoms):
    squares = [square(image, 150) for image in phantoms]
    copies = [square(copy(phantoms[7]), 150) for copy in COPIES.values()]
    assert groups(squares + copies) == [[7, *range(len(squares), len(squares) + len(copies))]]


def bits_of(count, copied, seed=0):
    """Return the bits of random hashes, of which the last ones are the first again, each with up to 20 bits changed."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (count, duplicates.HASH_BITS), np.uint8)
    bits[-copied:] = bits[:copied]
    for row in bits[-copied:]:
        row[rng.choice(len(row), rng.integers(21), replace=False)] ^= 1
    return bits


def all_pairs(bits, block=duplicates.BLOCK):
    return {tuple(pair) for pairs in duplicates.close_by_all_pairs(bits, block) for pair in pairs.tolist()}


def test_tables_find_the_pairs_that_comparing_all_finds():
    bits = bits_of(2000, copied=300)
    expected = {(row, 1700 + row) for row in range(300)}
    assert all_pairs(bits) == all_pairs(bits, block=77) == expected
    assert set(map(tuple, duplicates.close_by_tables(bits).tolist())) == expected


def test_where_most_hashes_nearly_agree_all_pairs_are_compared(monkeypatch, phantoms):
    """In tables, each pair would come again and again."""
    image, rng = square(phantoms[3], 64), np.random.default_rng(0)
    squares = [np.clip(image + rng.integers(-3, 4, image.shape), 0, 255).astype(np.uint8) for _ in range(30)]
    monkeypatch.setattr(duplicates, "close_by_tables", None)
    assert groups(squares) == [list(range(30))]
    with pytest.raises(TypeError):
        groups([square(image, 64) for image in phantoms])


def test_where_hashes_collide_the_thumbnails_decide(phantoms):
    squares = [square(image, 150) for image in phantoms[:10]]
    thumbnails = [thumbnail(image) for image in squares]
    assert near_equal([perceptual_hash(squares[0])] * 10, thumbnails) == []


def test_images_with_the_same_frame_and_letter_are_no_copies(phantoms):
    def marked(image):
        image = image.copy()
        draw = ImageDraw.Draw(image)
        draw.rectangle([0, 0, 223, 223], outline=0, width=14)
        draw.rectangle([18, 18, 70, 40], fill=255)
        return image

    assert groups([square(marked(image), 150) for image in phantoms]) == []


def test_images_without_detail_are_no_copies_of_each_other():
    rng = np.random.default_rng(0)
    uniform = [np.full((150, 150), grey, np.uint8) for grey in range(0, 256, 15)]
    noisy = [np.clip(grey + rng.normal(0, 3, (150, 150)), 0, 255).astype(np.uint8) for grey in range(20, 240, 20)]
    ramps = [np.linspace(0, top, 150, dtype=np.uint8) + np.zeros((150, 1), np.uint8) for top in (60, 100)]
    assert groups(uniform + uniform + noisy + ramps) == []


def test_no_phantom_is_a_copy_at_the_size_of_small_runs():
    assert groups([phantom.render(0, index, label, 32)[0] for index, label in phantom.cases("test")]) == []


@pytest.mark.parametrize("side", [16, 17, 150, 4096])
def test_any_side_gives_a_hash_and_a_thumbnail(side):
    image = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    assert len(perceptual_hash(image)) * 8 == duplicates.HASH_BITS
    assert thumbnail(image).shape == (32, 32) and thumbnail(image).dtype == np.uint8
    assert pickle.loads(pickle.dumps(perceptual_hash(image))) == perceptual_hash(image.copy())


def test_nothing_to_compare():
    assert near_equal([], []) == []
    assert groups([np.zeros((20, 20), np.uint8)]) == []


def test_copies_of_real_radiographs_are_found():
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    records = open_source(str(REAL)).records[::90]
    originals = [Image.open(REAL / record.id).convert("L") for record in records]
    for kind, copy in COPIES.items():
        squares = [square(image, 150) for image in [*originals, *map(copy, originals)]]
        assert groups(squares) == [[i, i + len(originals)] for i in range(len(originals))], kind
