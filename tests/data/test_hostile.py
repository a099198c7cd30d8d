"""Well-formed files, and paths that are no files, that would take forever, or all memory, or corrupt the terminal."""

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
from broken_files import CHEST, raw_png, sealed_png
from PIL import Image
from support import encoded
from test_fuzz import megabytes

from pneumojax.data.audit.findings import examine
from pneumojax.data.audit.quality import is_colour
from pneumojax.data.decode import dicom, images
from pneumojax.data.decode.quiet import quiet_decoders
from pneumojax.data.decode.unreadable import MAX_PIXELS, UnreadableImage
from pneumojax.data.sources import label_table, open_source
from pneumojax.data.sources.unlabelled import open_inputs
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import MAX_LINE, UserError
from pneumojax.workflows import prepare

SIDE = 10_000
CORRUPT = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"
HEADER = b"Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia\n"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")


@pytest.fixture(autouse=True)
def hang_limit():
    def fail(*_):
        raise TimeoutError("the test hangs")

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
    """Return {id: why it cannot be read}."""
    source = open_source(str(root))
    reasons = {}
    for record in source.records:
        reasons[record.id] = problem = examine(source, record).problem
        if problem:
            with pytest.raises(UnreadableImage) as caught:
                source.read(record, 32)
            assert str(caught.value) == problem
    return reasons


def read_all(root):
    """Open and read the images and NPZ files at `root`, as the command line does, and print the results."""
    quiet_decoders()
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


def test_pipes_devices_and_loops_are_refused_without_waiting(root):
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


@pytest.mark.parametrize("name", ["x.png", "x.npz", "x.dcm", "x.NPZ", "x"])
def test_a_pipe_to_predict_is_refused_without_waiting(tmp_path, name):
    os.mkfifo(tmp_path / name)
    if name.lower().endswith(".npz"):
        with pytest.raises(UserError, match="a pipe or a device"):
            open_inputs(str(tmp_path / name))
        return
    inputs = open_inputs(str(tmp_path / name))
    assert "a pipe or a device" in inputs.look(next(inputs.ids), 32).problem
    assert dicom.patient_key(tmp_path / name) is None


def test_an_npz_that_became_a_pipe_is_refused(tmp_path):
    path = npz(tmp_path / "x.npz", (3, 9, 9), zipfile.ZIP_STORED)
    source, modified = open_source(str(path)), path.stat().st_mtime_ns
    path.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(source.records[0], 32)
    os.mkfifo(path)
    os.utime(path, ns=(modified, modified))
    with pytest.raises(UnreadableImage, match="a pipe or a device"):
        source.read(source.records[0], 32)


@pytest.mark.parametrize("name", ["labels.csv", "train.csv"])
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
def test_pipes_and_folders_are_no_csv(tmp_path, name, make):
    CHEST.save(tmp_path / "a.png")
    make(tmp_path / name)
    assert "holds no images in folders" in refusal(tmp_path)


def test_links_to_themselves_are_refused(tmp_path):
    (tmp_path / "x.png").symlink_to("x.png")
    assert "no such data" in refusal(tmp_path / "x.png")
    (tmp_path / "NORMAL").symlink_to("NORMAL")
    assert "holds no images" in refusal(tmp_path)


def test_a_file_that_is_deleted_after_listing_has_a_reason(root):
    source = open_source(str(root))
    (root / "NORMAL" / "sound.png").unlink()
    assert examine(source, source.records[0]).problem == "No such file or directory"


def test_a_file_without_permission_has_a_reason(root):
    (root / "NORMAL" / "sound.png").chmod(0)
    if os.access(root / "NORMAL" / "sound.png", os.R_OK):
        pytest.skip("this user may read everything")
    assert problems(root) == {"NORMAL/sound.png": "Permission denied"}


@pytest.mark.parametrize("error", [UserError, UnreadableImage])
def test_names_cannot_corrupt_the_terminal(error):
    raised = error("胸部\u3000é: \x1b[2J\r\n\u2028\udcff" + "x" * 5000 + " fix it")
    assert str(raised).startswith("胸部\u3000é: \\x1b[2J\\r\\n\\u2028\\udcffxxx")
    assert str(raised).endswith("xxx fix it") and len(str(raised)) <= MAX_LINE
    assert str(pickle.loads(pickle.dumps(raised))) == str(raised)


def test_the_name_of_a_folder_is_escaped(tmp_path):
    (tmp_path / "a\n\x1b[2Jb").mkdir()
    assert "a\\n\\x1b[2Jb holds no images" in refusal(tmp_path / "a\n\x1b[2Jb")


def test_listed_names_are_no_commands_of_the_terminal(root, capsys):
    """One broken file, and one folder beside the class folders, have names that would clear the screen."""
    (root / "NORMAL" / "a\x1b[2J.png").write_bytes(b"broken")
    (root / "b\x1b[2J").mkdir()
    (root / "b\x1b[2J" / "c.png").write_bytes(b"broken")
    config = configs.load("m1")
    config.data.source, config.data.cache_dir = str(root), str(root.parent / "cache")
    for sentence in prepare.remarks_on(open_source(str(root))):
        print(sentence)
    with pytest.raises(UserError):
        prepare.prepare_source(config)
    printed = capsys.readouterr().out
    assert "unreadable: NORMAL/a\\x1b[2J.png" in printed
    assert "b\\x1b[2J" in printed
    assert "\x1b" not in printed


def test_no_warning_of_a_library_reaches_the_user(root):
    for transparency in (1, b"\xff\x80"):
        assert not is_colour(Image.open(io.BytesIO(encoded(CHEST.convert("P"), "PNG", transparency=transparency))))
    (root / "NORMAL" / "palette.png").write_bytes(encoded(CHEST.convert("P"), "PNG", transparency=b"\xff\x80"))
    (root / "NORMAL" / "exif.jpg").write_bytes(encoded(CHEST, "JPEG", exif=CORRUPT))
    path = npz(root / "x.npz", (3, 9, 9), zipfile.ZIP_STORED)
    for old, new in ((b"fortran_order", rb"fortran\order"), (b"(3, 9, 9), ", b"(3L, 9, 9),")):
        copy = path.with_stem(new[:3].hex())
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as broken:
            for name in archive.namelist():
                broken.writestr(name, archive.read(name).replace(old, new))
    code = "import sys; sys.path += ['tests', 'tests/data']; from test_hostile import *; read_all(Path(sys.argv[1]))"
    command = [sys.executable, "-W", "always", "-c", code, root]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert not done.stderr
    assert done.stdout.count("''") == 3 and done.stdout.count("records") == 2


@linux_only
@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (16, 0), (8, 3)])
def test_the_largest_images_take_little_memory(tmp_path, depth, colour):
    """Converting all pixels to grey at once would take 1.7 GB."""
    assert SIDE**2 == MAX_PIXELS
    content = raw_png(SIDE, SIDE, depth, colour, 0, bytes(SIDE * (1 + SIDE * depth // 8)))
    if colour == 3:
        at = content.index(b"IDAT") - 4
        content = sealed_png(content[:at] + (10).to_bytes(4) + b"tRNS" + bytes(14) + content[at:])
    (tmp_path / "x.png").write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
    taken = megabytes("VmRSS")
    assert (images.read(tmp_path / "x.png", 32) == 0).all()
    assert megabytes("VmHWM") - taken < 400


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16", "1"])
def test_grey_by_bands_is_the_same(mode):
    image = CHEST.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(CHEST).astype(np.uint16) * 257)
    if mode == "P":
        image = Image.open(io.BytesIO(encoded(image, "PNG", transparency=bytes(range(200)))))
    np.testing.assert_array_equal(images.grey(image, band=7 * 64 + 1), images.grey(image))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_widest_image_is_read(tmp_path, mode):
    Image.new(mode, (20_000, 2_000), "white").save(tmp_path / "x.jpg")
    assert (images.read(tmp_path / "x.jpg", 32) == 255).all()
    Image.new(mode, (20_001, 9), "white").save(tmp_path / "x.jpg")
    with pytest.raises(UnreadableImage, match="20001x9 pixels, a side of more than 20,000"):
        images.read(tmp_path / "x.jpg", 32)


def test_a_jpeg_of_endless_scans_is_refused(root):
    whole = encoded(Image.new("L", (20_000, 1_500)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xc4") : -2]
    (root / "NORMAL" / "sound.png").write_bytes(whole[:-2] + last * 5_000 + whole[-2:])
    assert problems(root) == {"NORMAL/sound.png": "a JPEG of more than 64 scans"}


@pytest.mark.parametrize("start", [b"zTXtComment\0\0", b"iTXtComment\0\1\0\0\0", b"iCCPicc\0\0"])
def test_a_png_chunk_that_inflates_enormously_is_not_read(tmp_path, start):
    (tmp_path / "x.png").write_bytes(with_chunk(start[:4], start[4:] + zlib_bomb()))
    np.testing.assert_array_equal(images.read(tmp_path / "x.png", 64), np.asarray(CHEST))


def zlib_bomb():
    return raw_png(1, 1, 8, 0, 0, bytes(100 << 20)).partition(b"IDAT")[2][:-16]


def test_a_png_with_more_data_than_pixels_is_read(tmp_path):
    (tmp_path / "x.png").write_bytes(raw_png(8, 8, 8, 0, 0, bytes(100 << 20)))
    assert images.read(tmp_path / "x.png", 8).shape == (8, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_enormous_file_is_refused(tmp_path, kind):
    (tmp_path / "x").write_bytes(encoded(CHEST, kind))
    os.truncate(tmp_path / "x", 3 * MAX_PIXELS + 1)  # takes no space where files may have holes
    with pytest.raises(UnreadableImage, match="a file of more than 300,000,000 bytes"):
        images.read(tmp_path / "x", 32)


def npz(path, shape, method):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    labels = io.BytesIO()
    np.save(labels, np.zeros(shape[0], np.uint8))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("train_labels.npy", labels.getvalue())
        archive.writestr("train_images.npy", header.getvalue() + bytes(int(np.prod(shape))))
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_npz_with_another_compression_is_refused(tmp_path, method):
    assert "has a compression that NumPy never uses" in refusal(npz(tmp_path / "x.npz", (3, 900, 900), method))


def test_an_npz_of_too_many_images_is_refused(tmp_path):
    assert "holds 2,000,001 images" in refusal(npz(tmp_path / "x.npz", (2_000_001, 1, 1), zipfile.ZIP_DEFLATED))


def test_an_npz_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path):
    """Radiographs shrink to a half; zeros to a thousandth."""
    packed = npz(tmp_path / "x.npz", (500, 1000, 1000), zipfile.ZIP_DEFLATED)
    assert "unpacks to 500,000" in refusal(packed) and "more than 400,000,000" in refusal(packed)


def test_an_npz_with_an_endless_header_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", b"\x93NUMPY\2\0" + (100 << 20).to_bytes(4, "little") + b" " * (100 << 20))
        archive.writestr("train_labels.npy", b"")
    assert "has a header of 104,857,600 bytes" in refusal(tmp_path / "x.npz")


def test_an_npz_of_countless_members_is_refused(tmp_path):
    path = npz(tmp_path / "x.npz", (3, 9, 9), zipfile.ZIP_STORED)
    content = path.read_bytes()
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    directory = content[start:end] * 50_000
    last = content[end : end + 12] + len(directory).to_bytes(4, "little") + content[end + 16 :]
    path.write_bytes(content[:start] + directory + last)
    assert "has far more parts" in refusal(path)


@linux_only
def test_opening_an_npz_takes_little_memory(tmp_path):
    path = npz(tmp_path / "x.npz", (3, 9_900, 9_900), zipfile.ZIP_DEFLATED)
    Path("/proc/self/clear_refs").write_text("5")
    taken = megabytes("VmRSS")
    assert len(open_source(str(path)).records) == 3
    assert megabytes("VmHWM") - taken < 50


@pytest.mark.parametrize(("name", "start"), [("train.csv", HEADER), ("labels.csv", b"image,label\n")])
def test_an_enormous_csv_is_refused(tmp_path, name, start):
    (tmp_path / name).write_bytes(start)
    os.truncate(tmp_path / name, 300 << 20)
    assert "is larger than 268,435,456 bytes" in refusal(tmp_path)


@pytest.mark.parametrize(("name", "start"), [("train.csv", HEADER), ("labels.csv", b"image,label\n")])
def test_a_csv_of_one_long_line_is_refused(tmp_path, name, start):
    (tmp_path / name).write_bytes(start + b"a" * (30 << 20))
    assert f"field larger than field limit ({csv.field_size_limit()})" in refusal(tmp_path)


def test_a_csv_of_too_many_lines_is_refused(tmp_path):
    for name in "abcd":
        CHEST.save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("image,label\n\na,0\nb,1\nc,0\n")
    assert len(label_table.open_table(tmp_path, max_records=3).records) == 3
    (tmp_path / "labels.csv").write_text("image,label\na,0\nb,1\nc,0\nd,0\n")
    with pytest.raises(UserError, match="has more than 3 lines"):
        label_table.open_table(tmp_path, max_records=3)
