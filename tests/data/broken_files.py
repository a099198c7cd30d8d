"""Sound files of every kind that users have, made of synthetic images, and ways to break them."""

import io
import os
import re
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from support import encoded

from pneumojax.data.sources import phantom

REAL = Path(__file__).parents[3] / "shared" / "data"
LONG = int(os.environ.get("FUZZ", 0))  # cases of each kind in the long form

CHEST = Image.fromarray(phantom.render(3, 0, 1, 64)[0])
MANY, JUNK = 200_000, b'",;\t\r\n\0\xff\xd8\xd9\xef\xbb\xbf\\/.'


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


def tiffs(folder):
    wide = Image.fromarray(np.asarray(CHEST).astype(np.uint16) * 16)
    yield from (encoded(image, "TIFF") for image in (CHEST, wide, CHEST.convert("RGB"), CHEST.convert("1")))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield encoded(wide, "TIFF", compression=compression, strip_size=1024)
    yield encoded(CHEST.convert("RGB"), "TIFF", compression="jpeg", icc_profile=profile())
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "chest"
    yield encoded(CHEST, "TIFF", exif=turned)


def bmps(folder):
    yield from (encoded(CHEST.convert(mode), "BMP") for mode in ("L", "RGB", "P", "1", "RGBA"))


def webps(folder):
    turned = Image.Exif()
    turned[0x0112] = 6
    yield from (encoded(CHEST.convert(mode), "WEBP", exif=turned) for mode in ("RGB", "RGBA"))
    yield encoded(CHEST.convert("RGBA"), "WEBP", lossless=True, icc_profile=profile())
    yield encoded(CHEST.convert("RGB"), "WEBP", save_all=True, append_images=[CHEST.convert("RGB").rotate(90)])


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


LONG_VR = (b"OB", b"OW", b"SQ", b"UN", b"UT")


def elements(content):
    """Split the data set of a DICOM file without compression into [tag, representation, value]."""
    place, found = body(content), []
    while place < len(content):
        tag, representation = content[place : place + 4], content[place + 4 : place + 6]
        start = place + (12 if representation in LONG_VR else 8)
        length = int.from_bytes(content[start - (4 if representation in LONG_VR else 2) : start], "little")
        place = start + length if length < len(content) else len(content)
        found.append([tag, representation, content[start:place]])
    return found


def joined(found, implicit, lengths):
    """Encode elements; `lengths` are added to those of the elements."""
    parts = []
    for (tag, representation, value), more in zip(found, lengths, strict=True):
        wide = implicit or representation in LONG_VR
        length = (len(value) + more) % (1 << (32 if wide else 16))
        head = b"" if implicit else representation + b"\0\0" if wide else representation
        parts.append(tag + head + length.to_bytes(4 if wide else 2, "little") + value)
    return b"".join(parts)


def nested(draw, value):
    """Put a value into a sequence of items, with lengths or without."""
    items = draw(st.integers(0, 3))
    if draw(st.booleans()):
        return (b"\xfe\xff\0\xe0" + len(value).to_bytes(4, "little") + value) * items
    ends = b"\xfe\xff\x0d\xe0\0\0\0\0"
    return (b"\xfe\xff\0\xe0\xff\xff\xff\xff" + value + ends) * items + b"\xfe\xff\xdd\xe0\0\0\0\0"


@st.composite
def dicom_headers(draw, bases):
    """Change elements of a sound DICOM file: which there are, their order, representations, lengths and values."""
    content = draw(st.sampled_from([base for base in bases if b"1.2.840.10008.1.2.1\0" in base[:400]]))
    found = elements(content)
    lengths = [0] * len(found)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found) - 1))
        tag, representation, value = found[at]
        change = draw(st.sampled_from(("drop", "repeat", "move", "represent", "length", "value", "nest", "number")))
        if change == "drop" and len(found) > 1:
            del found[at], lengths[at]
        elif change in ("repeat", "move"):
            to = draw(st.integers(0, len(found)))
            found.insert(to, found[at][:])
            lengths.insert(to, 0)
        elif change == "represent":
            found[at][1] = draw(st.sampled_from((b"OB", b"UN", b"SQ", b"DS", b"US", b"LO", b"ZZ", b"\0\0", b"FD")))
        elif change == "length":
            lengths[at] = draw(st.sampled_from((1, -1, 2, 1000, 65_535 - len(value), (1 << 32) - 1 - len(value))))
        elif change == "value":
            found[at][2] = draw(st.binary(max_size=20) | st.sampled_from((b"", b"1\\2\\x", b"nan ", b"9" * 40)))
        elif change == "number":
            found[at][2] = draw(st.sampled_from((0, 1, 255, 65_535))).to_bytes(2, "little")
        elif change == "nest":
            found[at] = [tag, b"SQ", nested(draw, joined([found[at]], False, [0]))]
    implicit, start = draw(st.integers(0, 3)) == 0, draw(st.sampled_from((0, 0, 0, 132, body(content))))
    meta = content[: body(content)]
    if implicit:
        meta = meta.replace(b"\x14\x001.2.840.10008.1.2.1\0", b"\x12\x001.2.840.10008.1.2\0")
    return (meta + joined(found, implicit, lengths))[start:]


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


@st.composite
def archives(draw, bases):
    """Change the members of an NPZ file: their names, headers, number and compression."""
    names = ["train_images.npy", "train_labels.npy", "val_images.npy", "val_labels.npy"]
    members = list(zip(names, (*bases[:2], *bases[2:0:-1]), strict=True))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(members) - 1))
        name, content = members[at]
        change = draw(st.sampled_from(("drop", "repeat", "rename", "header", "type", "order")))
        if change == "drop" and len(members) > 1:
            del members[at]
        elif change == "repeat":
            members.append((draw(st.sampled_from((name, "x/" + name, "../" + name))), content))
        elif change == "rename":
            members[at] = draw(st.sampled_from((*names, "test_images.npy", "\udc80", "a\nb", "/"))), content
        elif change == "header":
            shape = draw(st.lists(st.integers(-1, 300) | st.just(1 << 40), max_size=5))
            members[at] = name, re.sub(rb"\(.*?\)", str(tuple(shape)).encode(), content, count=1)
        elif change == "type":
            kinds = (b"|O", b"<f8", b"|i1", b">u2", b"|V8", b"<U9", b"|b1")
            members[at] = name, content.replace(b"|u1", draw(st.sampled_from(kinds)), 1)
        elif change == "order":
            members[at] = name, content.replace(b"False", b"True ", 1)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")  # names may occur twice
        for name, content in members:
            archive.writestr(os.fsencode(name).decode("latin-1"), content, draw(st.sampled_from((0, 8, 12, 14))))
        archive.comment = draw(st.binary(max_size=30))
    return buffer.getvalue()


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
