"""NPZ files with MedMNIST's keys: as released, as users write them, and damaged."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from pneumojax.data.decode import images
from pneumojax.data.decode.unreadable import MAX_PIXELS, UnreadableImage
from pneumojax.data.source import Record
from pneumojax.data.sources import open_source, phantom
from pneumojax.data.sources.npz import open_npz
from pneumojax.runtime.errors import UserError

COUNTS = {"train": 6, "val": 3, "test": 4}


def drawn(split, side=40):
    """Draw (n, side, side) uint8 and (n, 1) uint8, as in PneumoniaMNIST; every second image has the lesion."""
    first, labels = 100 * list(COUNTS).index(split), [number % 2 for number in range(COUNTS[split])]
    pictures = [phantom.render(5, first + number, label, side)[0] for number, label in enumerate(labels)]
    return np.stack(pictures), np.array(labels, np.uint8)[:, None]


def arrays(*splits):
    return {
        f"{split}_{kind}": array
        for split in splits or COUNTS
        for kind, array in zip(("images", "labels"), drawn(split), strict=True)
    }


def save(path, members, write=np.savez_compressed):
    write(path, **members)
    return path


@pytest.fixture
def file(tmp_path):
    return save(tmp_path / "pneumonia mnist.npz", arrays())


def refusal(path, **limits):
    with pytest.raises(UserError) as caught:
        open_npz(path, **limits)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    assert str(path) in line
    return line


def npy_bytes(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


def save_raw(path, **members):
    """Write an NPZ of members that NumPy would not write."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def test_every_image_is_a_record(file):
    source = open_npz(file)
    assert len(source.records) == 13
    assert [record.id for record in source.records] == sorted(record.id for record in source.records)
    assert source.records[0] == Record("test/00000", 0, "test/00000", "test")
    assert Record("train/00005", 1, "train/00005", "train") in source.records
    assert {split: sum(r.split == split for r in source.records) for split in COUNTS} == COUNTS
    assert (source.name, source.location, source.root) == ("pneumonia_mnist", str(file), None)
    assert "label 1 is taken as pneumonia" in source.remarks[0]


def test_the_location_is_absolute(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert open_npz(file.relative_to(file.parent)).location == str(file)


@pytest.mark.parametrize("splits", [("train",), ("test",), ("train", "test"), ("val", "test")])
def test_any_of_the_splits_may_be_there(tmp_path, splits):
    source = open_npz(save(tmp_path / "a.npz", arrays(*splits)))
    assert {record.split for record in source.records} == set(splits)


def test_other_members_are_ignored(tmp_path):
    odd = {"notes": np.array([{}], object), "extra_images": np.zeros(3)}
    assert len(open_npz(save(tmp_path / "a.npz", arrays() | odd)).records) == 13


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("size", [24, 40])
def test_images_are_read_as_files_with_the_same_pixels_are(tmp_path, write, size):
    source = open_npz(save(tmp_path / "a.npz", arrays(), write))
    for record in source.records:
        pixels = drawn(record.split)[0][int(record.id[-5:])]
        Image.fromarray(pixels).save(tmp_path / "same.png")
        result = source.read(record, size)
        assert (result.shape, result.dtype) == ((size, size), np.uint8)
        np.testing.assert_array_equal(result, images.read(tmp_path / "same.png", size))


def test_colour_and_one_channel_are_read(tmp_path):
    pictures, labels = drawn("train")
    colour = np.stack([pictures, pictures // 2, pictures // 3], axis=-1)
    for variant in (pictures, pictures[..., None], colour):
        source = open_npz(save(tmp_path / "a.npz", {"train_images": variant, "train_labels": labels}))
        grey = np.asarray(Image.fromarray(variant[3].squeeze()).convert("L"))
        np.testing.assert_array_equal(source.read(source.records[3], 40), grey)
        os.remove(tmp_path / "a.npz")


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 28, 28), (2, 64, 48, 1), (2, 3, 5, 3), (2, 224, 224)])
def test_images_of_any_size_are_read(tmp_path, shape):
    members = {"test_images": np.full(shape, 77, np.uint8), "test_labels": np.array([1, 0])}
    source = open_npz(save(tmp_path / "a.npz", members))
    np.testing.assert_array_equal(source.read(source.records[0], 8), np.full((8, 8), 77, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
@pytest.mark.parametrize("flat", [True, False])
def test_labels_may_have_any_integer_type(tmp_path, dtype, flat):
    pictures, labels = drawn("val")
    labels = labels.astype(dtype).reshape(-1 if flat else (-1, 1))
    source = open_npz(save(tmp_path / "a.npz", {"val_images": pictures, "val_labels": labels}))
    assert [record.label for record in source.records] == [0, 1, 0]
    assert type(source.records[0].label) is int


def test_it_reads_in_another_process(file):
    source = open_npz(file)
    code = "import pickle, sys; s = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(s.read(s.records[7], 40))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
    assert done.stdout == source.read(source.records[7], 40).tobytes()
    assert len(pickle.dumps(source)) < 3000, "the arrays are not sent"


def test_opening_keeps_no_image_and_reading_loads_each_split_once(file, monkeypatch):
    shapes = []
    read_array = np.lib.format.read_array

    def counting(*args, **options):
        array = read_array(*args, **options)
        shapes.append(array.shape)
        return array

    monkeypatch.setattr(np.lib.format, "read_array", counting)
    source = open_npz(file)
    assert shapes == [(6, 1), (3, 1), (4, 1)], "the labels"
    shapes.clear()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda record: source.read(record, 24), source.records * 3))
    assert sorted(shapes) == [(3, 40, 40), (4, 40, 40), (6, 40, 40)], "the images"


def test_a_file_that_changed_or_disappeared_is_unreadable(tmp_path):
    path = save(tmp_path / "a.npz", arrays())
    source = open_npz(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(UnreadableImage, match="has changed since"):
        source.read(source.records[0], 24)
    path.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(source.records[0], 24)


def test_the_fingerprint_follows_the_file(file):
    before = open_npz(file).fingerprint
    assert open_npz(file).fingerprint == before
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert open_npz(file).fingerprint != before


PICTURES, LABELS = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("pictures", "labels", "says"),
    [
        (PICTURES.astype(np.float32), LABELS, "train_images are float32: save them as uint8"),
        (PICTURES.astype(np.uint16), LABELS, "train_images are uint16"),
        (PICTURES.astype("S1"), LABELS, "train_images are |S1"),
        (PICTURES[0], LABELS, "train_images have shape (8, 8)"),
        (PICTURES[..., None, None], LABELS, "train_images have shape (4, 8, 8, 1, 1)"),
        (np.zeros((4, 8, 8, 4), np.uint8), LABELS, "train_images have shape (4, 8, 8, 4)"),
        (np.zeros((4, 0, 8), np.uint8), LABELS, "train_images have shape (4, 0, 8)"),
        (np.zeros((0, 8, 8), np.uint8), LABELS[:0], "holds no image"),
        (np.asfortranarray(np.zeros((4, 8, 8), np.uint8)), LABELS, "train_images is in Fortran order"),
        (PICTURES, LABELS[:3], "4 train_images but 3 train_labels"),
        (PICTURES, LABELS.astype(np.float32), "train_labels are float32: save them as integers"),
        (PICTURES, LABELS.astype(object), "train_labels holds pickled objects, which are never loaded"),
        (PICTURES.astype(object), LABELS, "train_images holds pickled objects"),
        (PICTURES, np.zeros((4, 14), np.uint8), "train_labels have shape (4, 14): save them as (n,) or (n, 1)"),
        (PICTURES, np.array(1), "train_labels have shape ()"),
        (PICTURES, np.array([0, 1, 2, 7]), "train_labels are 0 to 7: use 0 for normal and 1 for pneumonia"),
        (PICTURES, np.array([-1, 0, 1, 1]), "train_labels are -1 to 1: use 0"),
    ],
)
def test_other_arrays_are_refused(tmp_path, pictures, labels, says):
    path = save(tmp_path / "a.npz", {"train_images": pictures, "train_labels": labels})
    assert says in refusal(path)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (["train_images"], "lacks train_labels:"),
        (["train_images", "train_labels", "val_labels"], "lacks val_images:"),
        (["train_images", "test_labels"], "lacks train_labels and test_images:"),
        (["x", "y"], "has no train_images and train_labels"),
        ([], "has no train_images and train_labels"),
    ],
)
def test_incomplete_splits_are_refused(tmp_path, keys, says):
    assert says in refusal(save(tmp_path / "a.npz", dict.fromkeys(keys, LABELS)))


def test_nothing_is_unpickled(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    harm = np.array([Harm()], object)
    refusal(save(tmp_path / "a.npz", {"train_images": PICTURES[:1], "train_labels": harm}))
    refusal(save_raw(tmp_path / "b.npz", train_images=pickle.dumps(Harm()), train_labels=npy_bytes(LABELS)))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(300)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    refusal(path)


def test_an_npz_cut_short_anywhere_is_refused(file):
    content = file.read_bytes()
    for end in range(0, len(content), len(content) // 40):
        file.write_bytes(content[:end])
        assert "cannot be read as NPZ" in refusal(file)


def test_a_flipped_byte_is_found_before_training(file):
    save(file, arrays(), np.savez)
    content = bytearray(file.read_bytes())
    at = content.index(drawn("val")[0].tobytes()) + 1000
    content[at] ^= 1
    file.write_bytes(content)
    assert "Bad CRC-32" in refusal(file)


def test_noise_in_a_file_raises_no_other_error(file):
    rng = np.random.default_rng(0)
    content = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(150):
        noisy = content.copy()
        places = np.r_[rng.integers(0, len(noisy), 2), rng.integers(len(noisy) - 500, len(noisy), 2)]
        noisy[places] = rng.integers(0, 256, 4)
        file.write_bytes(noisy.tobytes())
        try:
            source = open_npz(file)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert source.records


def declaring(shape, content=bytes(256)):
    """Make an NPY whose header declares any shape, whatever the content."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


@pytest.mark.parametrize("shape", [(4, 8, 9), (10**6, 10**6, 10**6), (-4, -8, 8), (4, 8, 7), (0, 8, 8), (9**999, 8, 8)])
def test_a_shape_that_does_not_fit_the_content_is_refused(tmp_path, shape):
    path = save_raw(tmp_path / "a.npz", train_images=declaring(shape), train_labels=npy_bytes(LABELS))
    assert "too many or few for shape" in refusal(path)


@pytest.mark.parametrize(
    "member", [b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00abc", declaring("(" * 500), declaring("x")]
)
def test_a_broken_header_is_refused(tmp_path, member):
    path = save_raw(tmp_path / "a.npz", train_images=member, train_labels=npy_bytes(LABELS))
    assert "again" in refusal(path)


def test_the_second_header_version_is_read_and_the_third_refused(tmp_path):
    members = {"train_images": npy_bytes(PICTURES, version=(2, 0)), "train_labels": npy_bytes(LABELS)}
    assert len(open_npz(save_raw(tmp_path / "a.npz", **members)).records) == 4
    members["train_images"] = npy_bytes(PICTURES, version=(3, 0))
    assert "NPY version (3, 0)" in refusal(save_raw(tmp_path / "b.npz", **members))


def test_a_file_that_unpacks_to_too_much_is_refused_before_anything_is_allocated(file, monkeypatch):
    size = sum(array.nbytes for array in arrays().values())
    assert len(open_npz(file, max_bytes=size).records) == 13
    monkeypatch.setattr(np.lib.format, "read_array", None)
    assert f"unpacks to {size:,} bytes, more than {size - 1:,}" in refusal(file, max_bytes=size - 1)


def test_images_of_too_many_pixels_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    save(path, {"train_images": np.zeros((1, 1, MAX_PIXELS + 1), np.uint8), "train_labels": LABELS[:1]})
    assert "pixels, more than" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_repeated_member_is_refused(tmp_path):
    path = save(tmp_path / "a.npz", arrays("train"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_labels.npy", npy_bytes(1 - drawn("train")[1]))
    assert "holds train_labels more than once" in refusal(path)


def test_an_encrypted_file_is_refused(file):
    content = bytearray(file.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1  # the flag of encryption
    file.write_bytes(content)
    assert "is encrypted" in refusal(file)


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        open_npz(tmp_path / "a.npz")


def test_where_labels_are_not_needed_they_are_read_if_they_are_there(tmp_path):
    """As for the audit, and for calibrating on a site's films."""
    whole = save(tmp_path / "whole.npz", arrays("test"))
    images_alone = save(tmp_path / "alone.npz", {"test_images": arrays("test")["test_images"]})
    assert {record.label for record in open_source(str(whole), labelled=False).records} == {0, 1}
    assert {record.label for record in open_source(str(images_alone), labelled=False).records} == {None}
    with pytest.raises(UserError, match="lacks test_labels|has no train_images and train_labels"):
        open_source(str(images_alone))
