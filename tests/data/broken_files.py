"""Sound files of every kind that users have, made of synthetic images, and ways to break them."""

import io
import os
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from pneumojax.data.sources import phantom

REAL = Path(__file__).parents[3] / "shared" / "data"
LONG = int(os.environ.get("FUZZ", 0))  # cases of each kind in the long form

CHEST = Image.fromarray(phantom.render(3, 0, 1, 64)[0])
MANY, JUNK = 200_000, b'",;\t\r\n\0\xff\xd8\xd9\xef\xbb\xbf\\/.'


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpegs(folder):
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "chest"
    yield from (encoded(CHEST, "JPEG", **options) for options in ({}, {"progressive": True}, {"exif": turned}))
    yield from (encoded(CHEST.convert(mode), "JPEG") for mode in ("RGB", "CMYK"))
    yield encoded(CHEST.convert("RGB"), "JPEG", progressive=True, subsampling=2, icc_profile=profile(), comment="x")
    if LONG and REAL.is_dir():
        real = sorted(REAL.glob("kermany_224/train/*/*.jpeg"))[::500] + sorted(REAL.glob("kermany_full*/*/*"))[::12]
        yield from (path.read_bytes() for path in real)


def profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pngs(folder):
    texts = PngInfo()
    texts.add_text("Comment", "chest " * 50, zip=True)
    texts.add_itxt("Title", "röntgen", zip=True)
    yield encoded(CHEST, "PNG", pnginfo=texts, icc_profile=profile())
    yield encoded(Image.fromarray(np.asarray(CHEST).astype(np.uint16) * 257), "PNG")
    yield from (encoded(CHEST.convert(mode), "PNG") for mode in ("1", "RGB", "LA", "RGBA"))
    yield encoded(CHEST.convert("P"), "PNG", transparency=b"\xff\x80\x00")
    yield encoded(CHEST, "PNG", save_all=True, append_images=[CHEST.rotate(90)])
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    pixels = np.asarray(CHEST)
    rows = b"".join(b"\0" + row.tobytes() for y, x, dy, dx in passes for row in pixels[y::dy, x::dx])
    yield raw_png(64, 64, 8, 0, 1, rows)


def raw_png(width, height, depth, colour, interlace, rows):
    """Make a PNG with these header fields and filtered rows, whether or not they make sense."""
    header = np.array([width, height], ">u4").tobytes() + bytes([depth, colour, 0, 0, interlace])
    chunks = ((b"IHDR", header), (b"PLTE", bytes(range(30))), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return sealed_png(b"\x89PNG\r\n\x1a\n" + b"".join(len(d).to_bytes(4) + n + d + bytes(4) for n, d in chunks))


def sealed_png(content):
    """Give every chunk its right checksum, because decoders stop at a wrong one."""
    sealed, place = content[:8], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4])
        chunk = content[place + 4 : place + 8 + length]
        sealed += content[place : place + 4] + chunk + zlib.crc32(chunk).to_bytes(4)
        place += 12 + length
    return sealed


def dicoms(folder):
    import dicom_files
    from pydicom import uid

    window = {"WindowCenter": "1500", "WindowWidth": "2000", "RescaleSlope": "2", "PixelPaddingValue": 0}
    window["VOILUTSequence"] = dicom_files.lut(range(4096), 0, 16)
    yield dicom_files.write(folder / "x", dicom_files.WIDE, 12, **window).read_bytes()
    packs = {uid.ExplicitVRLittleEndian: lambda pixels: None} | dicom_files.LOSSLESS | dicom_files.LOSSY
    for syntax, pack in packs.items():
        whole = dicom_files.write(folder / "x", dicom_files.WIDE, 12, syntax, pack(dicom_files.WIDE)).read_bytes()
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            whole = whole[: body(whole)] + zlib.decompress(whole[body(whole) :], -15)
        yield whole
    rgb = np.asarray(CHEST.convert("RGB"))
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1}
    yield dicom_files.write(folder / "x", rgb, 8, **colour).read_bytes()


def body(content):
    """Return where the data set of a DICOM file starts."""
    return 144 + int.from_bytes(content[140:144], "little")


def sealed_dicom(content):
    """Deflate the data set if the header says so."""
    if b"1.2.840.10008.1.2.1.99" not in content[:500]:
        return content
    deflate = zlib.compressobj(wbits=-15)
    return content[: body(content)] + deflate.compress(content[body(content) :]) + deflate.flush()


def arrays(folder):
    pictures = np.stack([phantom.render(3, number, 1, 28)[0] for number in range(4)])
    for array in (pictures, np.arange(4, dtype=np.uint8)[:, None] % 2, pictures[..., None].repeat(3, -1)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        yield buffer.getvalue()


def tables(folder):
    path = "CheXpert-v1.0/train/patient0000{}/study1/view1_frontal.jpg"
    rows = [f"{path.format(number)},Female,68,Frontal,AP,{number % 2}.0,-1.0" for number in range(3)]
    yield "\n".join(["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia", *rows, ""]).encode()
    yield b'patientId,x,Target,split\na,"1,0",0,train\nb,,1,val\n'
    yield b"\xef\xbb\xbfimage;label;patient\r\na.png;Normal;7\r\nb.png;PNEUMONIA;8\r\n"


def place(draw, content):
    """Draw a place, half of the time in the header."""
    return draw(st.integers(0, min(len(content), 600)) | st.integers(0, len(content)))


def flip(draw, content, bases):
    at = place(draw, content)
    return content[:at] + bytes(byte ^ draw(st.integers(1, 255)) for byte in content[at : at + 1]) + content[at + 1 :]


def insert(draw, content, bases):
    at = place(draw, content)
    odd = st.binary(max_size=16) | st.text(max_size=8).map(str.encode) | st.lists(st.sampled_from(JUNK)).map(bytes)
    return content[:at] + draw(odd) + content[at:]


def delete(draw, content, bases):
    at = place(draw, content)
    return content[:at] + content[at + draw(st.integers(1, 64)) :]


def truncate(draw, content, bases):
    return content[: place(draw, content)]


def splice(draw, content, bases):
    other = draw(st.sampled_from(bases))
    return content[: place(draw, content)] + other[place(draw, other) :]


def repeat(draw, content, bases):
    at, length = place(draw, content), draw(st.integers(1, 100))
    times = draw(st.integers(2, 20) | st.just(MANY // length))
    return content[:at] + content[at : at + length] * times + content[at:]


def extreme(draw, content, bases):
    at, width = place(draw, content), draw(st.sampled_from((1, 2, 4, 8)))
    number = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF))) << 8 * (width - 1)
    number |= (1 << 8 * (width - 1)) - 1 if number % 2 or number >> 8 * (width - 1) in (0x7F, 0xFF) else 0
    return content[:at] + number.to_bytes(width, draw(st.sampled_from(("big", "little")))) + content[at + width :]


def digits(draw, content, bases):
    numbers = [match.span() for match in re.finditer(rb"\d+", content)] or [(0, 0)]
    start, end = draw(st.sampled_from(numbers))
    return content[:start] + draw(st.sampled_from((b"0", b"1", b"-1", b"1e308", b"nan", b"9" * 20))) + content[end:]


MUTATIONS = (flip, insert, delete, truncate, splice, repeat, extreme, digits)


@st.composite
def mutated(draw, bases, seal=None):
    content = draw(st.sampled_from(bases))
    for mutate in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=3)):
        content = mutate(draw, content, bases)
    return seal(content) if seal and draw(st.integers(0, 3)) else content


@st.composite
def npz(draw, bases):
    names = ["train_images.npy", "train_labels.npy", "val_images.npy", "val_labels.npy"]
    members = dict(zip(names, (*bases[:2], *bases[2:0:-1]), strict=True))
    broken = draw(st.sampled_from([*names, None]))
    if broken:
        members[broken] = draw(mutated(bases))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    whole = buffer.getvalue()
    return whole if broken else draw(mutated([whole]))


def names(bases):
    """Draw (folder, file, content), with names of any bytes, some of which no file system takes."""
    odd = ("a\nb", "a\x1b[2Jb", "'\"; `", "ä\u2028\u202e", "-", "~", "x" * 240)
    plain = st.text(max_size=20) | st.sampled_from(odd)
    name = plain.map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=20)
    name = name.map(lambda raw: os.fsdecode(re.sub(rb"[/\0]", b"_", raw)))
    suffix = st.sampled_from(("", ".png", ".JPG", ".dcm", ".csv", ".npz"))
    return st.tuples(name, st.builds(str.__add__, name, suffix), st.sampled_from([*bases, b"", b"image,label\na,0\n"]))


SIDES = st.sampled_from((0, 1, 3, 64, 65_535, 1 << 31))
ROWS = st.binary() | st.just(bytes(70_000))
ODD_PNG = st.builds(
    raw_png, SIDES, SIDES, st.sampled_from((1, 2, 4, 8, 16)), st.integers(0, 6), st.integers(0, 1), ROWS
)
