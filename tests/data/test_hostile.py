"""Files that are well formed, or no files at all, but would take for ever, or all memory, or spoil the terminal."""

import csv
import io
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from broken_files import CHEST, encoded, raw_png, sealed_png
from PIL import Image
from test_fuzz import megabytes

from pneumojax import config as configs
from pneumojax import curate
from pneumojax.data import images
from pneumojax.data.audit import examine
from pneumojax.data.checks import is_colour
from pneumojax.data.sources import open_source, table
from pneumojax.data.unreadable import MAX_PIXELS, UnreadableImage
from pneumojax.errors import MAX_LINE, UserError

SIDE = 10_000
CORRUPT = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"
HEADER = b"Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia\n"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")


@pytest.fixture(autouse=True)
def hang_limit():
    def fail(*_):
        raise TimeoutError("it hangs")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(30)
    yield
    signal.alarm(0)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "set" / "NORMAL").mkdir(parents=True)
    CHEST.save(tmp_path / "set" / "NORMAL" / "sound.png")
    return tmp_path / "set"


def problems(root):
    """{id: why it cannot be read}."""
    source = open_source(str(root))
    told = {}
    for record in source.records:
        told[record.id] = problem = examine(source, record).problem
        if problem:
            with pytest.raises(UnreadableImage) as caught:
                source.read(record, 32)
            assert str(caught.value) == problem
    return told


def tell(root):
    """What `open_source` says of the images and NPZ files at `root`."""
    print(problems(root))
    for path in root.glob("*.npz"):
        try:
            print(len(open_source(str(path)).records), "records")
        except UserError:
            print("refused")


def refusal(location):
    with pytest.raises(UserError) as caught:
        open_source(str(location))
    return str(caught.value)


def unreadable(path, content):
    path.write_bytes(content)
    with pytest.raises(UnreadableImage) as caught:
        images.read(path, 32)
    return str(caught.value)


def with_chunk(name, data):
    whole = encoded(CHEST, "PNG")
    return sealed_png(whole[:33] + len(data).to_bytes(4) + name + data + bytes(4) + whole[33:])


def test_what_is_no_file_is_refused_and_never_waited_for(root):
    for name in ("pipe.png", "pipe.dcm"):
        os.mkfifo(root / "NORMAL" / name)
    (root / "NORMAL" / "device.jpg").symlink_to("/dev/zero")
    (root / "NORMAL" / "folder.png").mkdir()
    (root / "NORMAL" / "loop.png").symlink_to("loop.png")
    (root / "NORMAL" / "up").symlink_to(root)
    pipe = "a pipe or a device, not a file"
    assert problems(root) == {
        "NORMAL/device.jpg": pipe,
        "NORMAL/loop.png": "Too many levels of symbolic links",
        "NORMAL/pipe.dcm": pipe,
        "NORMAL/pipe.png": pipe,
        "NORMAL/sound.png": "",
    }


@pytest.mark.parametrize("name", ["x.png", "x.npz", "x.dcm", "x.csv", "x"])
def test_a_pipe_is_no_source(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "pipe or a device" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["labels.csv", "train.csv"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_what_is_no_file_is_no_csv(tmp_path, name, make):
    CHEST.save(tmp_path / "a.png")
    make(tmp_path / name)
    assert "holds no images in folders" in refusal(tmp_path)


def test_loops_of_links(tmp_path):
    (tmp_path / "x.png").symlink_to("x.png")
    assert "no such data" in refusal(tmp_path / "x.png")
    (tmp_path / "NORMAL").symlink_to("NORMAL")
    assert "holds no images" in refusal(tmp_path)


def test_a_file_that_vanishes_once_it_is_listed(root):
    source = open_source(str(root))
    (root / "NORMAL" / "sound.png").unlink()
    assert examine(source, source.records[0]).problem == "No such file or directory"


def test_a_file_that_may_not_be_read(root):
    (root / "NORMAL" / "sound.png").chmod(0)
    if os.access(root / "NORMAL" / "sound.png", os.R_OK):
        pytest.skip("this user may read everything")
    assert problems(root) == {"NORMAL/sound.png": "Permission denied"}


@pytest.mark.parametrize("error", [UserError, UnreadableImage])
def test_names_cannot_spoil_the_terminal(error):
    told = error("胸部\u3000é: \x1b[2J\r\n\u2028\udcff" + "x" * 5000 + " mend it")
    assert str(told).startswith("胸部\u3000é: \\x1b[2J\\r\\n\\u2028\\udcffxxx")
    assert str(told).endswith("xxx mend it") and len(str(told)) <= MAX_LINE
    assert str(pickle.loads(pickle.dumps(told))) == str(told)


def test_a_folder_of_an_odd_name(tmp_path):
    (tmp_path / "a\n\x1b[2Jb").mkdir()
    assert "a\\n\\x1b[2Jb holds no images" in refusal(tmp_path / "a\n\x1b[2Jb")


def test_what_is_listed_commands_no_terminal(root, capsys):
    """A broken file whose name is a command to clear the screen, and one beside the folders of classes."""
    (root / "NORMAL" / "a\x1b[2J.png").write_bytes(b"broken")
    (root / "b\x1b[2J").mkdir()
    (root / "b\x1b[2J" / "c.png").write_bytes(b"broken")
    config = configs.load("m1")
    config.data.source, config.data.cache_dir = str(root), str(root.parent / "cache")
    for sentence in curate.said_of(open_source(str(root))):
        print(sentence)
    with pytest.raises(UserError):
        curate.prepare_mode(config)
    told = capsys.readouterr().out
    assert "unreadable: NORMAL/a\\x1b[2J.png" in told
    assert "b\\x1b[2J" in told
    assert "\x1b" not in told


def test_libraries_warn_nobody(root):
    for transparency in (1, b"\xff\x80"):
        assert not is_colour(Image.open(io.BytesIO(encoded(CHEST.convert("P"), "PNG", transparency=transparency))))
    (root / "NORMAL" / "palette.png").write_bytes(encoded(CHEST.convert("P"), "PNG", transparency=b"\xff\x80"))
    (root / "NORMAL" / "exif.jpg").write_bytes(encoded(CHEST, "JPEG", exif=CORRUPT))
    path = npz(root / "x.npz", (3, 9, 9), zipfile.ZIP_STORED)
    for old, new in ((b"fortran_order", rb"fortran\order"), (b"(3, 9, 9), ", b"(3L, 9, 9),")):
        put = path.with_stem(new[:3].hex())
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(put, "w") as broken:
            for name in archive.namelist():
                broken.writestr(name, archive.read(name).replace(old, new))
    code = "import sys; sys.path.append('tests/data'); from test_hostile import *; tell(Path(sys.argv[1]))"
    command = [sys.executable, "-W", "always", "-c", code, root]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert not done.stderr
    assert done.stdout.count("''") == 3 and done.stdout.count("records") == 2


@linux_only
@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (16, 0), (8, 3)])
def test_as_many_pixels_as_may_be(tmp_path, depth, colour):
    """What was thought for a few megapixels took 1.7 GB here."""
    assert SIDE**2 == MAX_PIXELS
    content = raw_png(SIDE, SIDE, depth, colour, 0, bytes(SIDE * (1 + SIDE * depth // 8)))
    if colour == 3:
        at = content.index(b"IDAT") - 4
        content = sealed_png(content[:at] + (10).to_bytes(4) + b"tRNS" + bytes(14) + content[at:])
    (tmp_path / "x.png").write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    taken = megabytes("VmRSS")
    assert (images.read(tmp_path / "x.png", 32) == 0).all()
    assert megabytes("VmHWM") - taken < 400


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16", "1"])
def test_grey_by_bands_is_the_same(monkeypatch, mode):
    image = CHEST.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(CHEST).astype(np.uint16) * 257)
    if mode == "P":
        image = Image.open(io.BytesIO(encoded(image, "PNG", transparency=bytes(range(200)))))
    whole = images.grey(image)
    monkeypatch.setattr(images, "_BAND", 7 * 64 + 1)
    np.testing.assert_array_equal(images.grey(image), whole)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_widest_jpeg(tmp_path, mode):
    Image.new(mode, (65_500, 1_500), "white").save(tmp_path / "x.jpg")
    assert (images.read(tmp_path / "x.jpg", 32) == 255).all()


def test_a_jpeg_of_scans_without_end(root):
    whole = encoded(Image.new("L", (65_500, 1_500)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xc4") : -2]
    (root / "NORMAL" / "sound.png").write_bytes(whole[:-2] + last * 5_000 + whole[-2:])
    assert problems(root) == {"NORMAL/sound.png": "a JPEG of more than 64 scans"}


@pytest.mark.parametrize("start", [b"zTXtComment\0\0", b"iTXtComment\0\1\0\0\0", b"iCCPicc\0\0"])
def test_a_png_chunk_that_inflates_without_end(tmp_path, start):
    content = with_chunk(start[:4], start[4:] + zlib_bomb())
    assert "too large" in unreadable(tmp_path / "x.png", content)


def zlib_bomb():
    return raw_png(1, 1, 8, 0, 0, bytes(100 << 20)).partition(b"IDAT")[2][:-16]


def test_a_png_with_more_data_than_pixels(tmp_path):
    (tmp_path / "x.png").write_bytes(raw_png(8, 8, 8, 0, 0, bytes(100 << 20)))
    assert images.read(tmp_path / "x.png", 8).shape == (8, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_without_end(tmp_path, kind):
    (tmp_path / "x").write_bytes(encoded(CHEST, kind))
    os.truncate(tmp_path / "x", 8 * MAX_PIXELS + 1)  # takes no room where files may have holes
    with pytest.raises(UnreadableImage, match="a file of more than 800,000,000 bytes"):
        images.read(tmp_path / "x", 32)


def npz(path, shape, method):
    header = io.BytesIO()
    told = {"descr": "|u1", "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, told | {"shape": shape})
    labels = io.BytesIO()
    np.save(labels, np.zeros(shape[0], np.uint8))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("train_labels.npy", labels.getvalue())
        archive.writestr("train_images.npy", header.getvalue() + bytes(int(np.prod(shape))))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_that_unpacks_all_at_once(tmp_path, method):
    assert "compressed as NumPy never does" in refusal(npz(tmp_path / "x.npz", (3, 900, 900), method))


def test_an_npz_of_more_images_than_there_are(tmp_path):
    assert "holds 2,000,001 images" in refusal(npz(tmp_path / "x.npz", (2_000_001, 1, 1), zipfile.ZIP_DEFLATED))


@linux_only
def test_an_npz_of_zeros(tmp_path):
    path = npz(tmp_path / "x.npz", (3, 9_900, 9_900), zipfile.ZIP_DEFLATED)
    Path("/proc/self/clear_refs").write_text("5")
    taken = megabytes("VmRSS")
    assert len(open_source(str(path)).records) == 3
    assert megabytes("VmHWM") - taken < 50


@pytest.mark.parametrize(("name", "start"), [("train.csv", HEADER), ("labels.csv", b"image,label\n")])
def test_a_csv_without_end(tmp_path, name, start):
    (tmp_path / name).write_bytes(start)
    os.truncate(tmp_path / name, 300 << 20)
    assert "is larger than 268,435,456 bytes" in refusal(tmp_path)


@pytest.mark.parametrize(("name", "start"), [("train.csv", HEADER), ("labels.csv", b"image,label\n")])
def test_a_csv_of_one_long_line(tmp_path, name, start):
    (tmp_path / name).write_bytes(start + b"a" * (30 << 20))
    assert f"field larger than field limit ({csv.field_size_limit()})" in refusal(tmp_path)


def test_a_csv_of_too_many_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MAX_RECORDS", 3)
    for name in "abcd":
        CHEST.save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,label\n\na,0\nb,1\nc,0\n")
    assert len(open_source(str(tmp_path)).records) == 3
    (tmp_path / "labels.csv").write_text("image,label\na,0\nb,1\nc,0\nd,0\n")
    assert "has more than 3 lines" in refusal(tmp_path)
