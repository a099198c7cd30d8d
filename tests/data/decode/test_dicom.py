"""DICOM radiographs: the shades that the standard requires, or a reason that reveals nothing about the patient."""

import io
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from dicom_files import GREY, LOSSLESS, LOSSY, SECRETS, WIDE, lut, run_lengths, write
from PIL import Image
from pydicom import uid
from pydicom.pixels import get_decoder

from pneumojax.data.decode import dicom
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.patient_hash import hashed
from pneumojax.data.sources import phantom


@pytest.fixture
def shades(tmp_path):
    """Decode pixels with these elements in the header to shades, 0 to 1."""

    def shades(pixels, bits=12, **elements):
        image = dicom.decode(write(tmp_path / "x.dcm", np.atleast_2d(pixels), bits, **elements))
        return np.asarray(image) / (65535 if image.mode == "I;16" else 255)

    return shades


def refusal(path, **limits):
    with pytest.raises(UnreadableImage) as caught:
        dicom.decode(path, **limits)
    reason = str(caught.value)
    assert reason and "\n" not in reason and len(reason) < 120
    assert not any(secret.lower() in reason.lower() for secret in (*SECRETS, str(path.parent)))
    return reason


RAMP = np.array([0, 1000, 2000, 4000], np.uint16)


def test_more_than_8_bits_without_a_window_are_stretched(shades):
    np.testing.assert_allclose(shades(RAMP + 50), [[0, 0.25, 0.5, 1]], atol=1e-5)
    assert (shades(np.full((3, 4), 7, np.uint16)) == 0).all()  # nothing to stretch


def test_8_bits_without_a_window_are_shown_as_they_are(shades):
    np.testing.assert_allclose(shades(np.array([51, 102, 204], np.uint8), 8), [[0.2, 0.4, 0.8]], atol=1e-5)


@pytest.mark.parametrize("window", [("1500", "2000"), ([1500, 99], [2000, 7])], ids=["one", "the first of several"])
def test_a_window_follows_the_standard(shades, window):
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5)
    expected = [[0, (1000 - 1499.5) / 1999 + 0.5, (2000 - 1499.5) / 1999 + 0.5, 1]]
    shown = shades(RAMP, WindowCenter=window[0], WindowWidth=window[1])
    np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_exact_and_sigmoid_windows(shades):
    window = {"WindowCenter": "1500", "WindowWidth": "4000"}
    exact = shades(RAMP, **window, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(exact, [[0.125, 0.375, 0.625, 1]], atol=1e-5)
    sigmoid = shades(RAMP, **window, VOILUTFunction="SIGMOID")
    np.testing.assert_allclose(sigmoid, [1 / (1 + np.exp(-4 * (RAMP - 1500.0) / 4000))], atol=1e-5)


@pytest.mark.parametrize("centre, width", [("1500", "0"), ("1500", "-5"), ("90000", "10"), ("", ""), ("x", "10")])
def test_a_meaningless_window_is_ignored(tmp_path, centre, width):
    write(tmp_path / "x.dcm", np.atleast_2d(RAMP), 12, WindowCenter="1111", WindowWidth="2222")
    content = (tmp_path / "x.dcm").read_bytes()
    for old, new in (("1111", centre), ("2222", width)):
        element = len(old).to_bytes(2, "little") + old.encode()
        padded = (new + " " * (len(new) % 2)).encode()
        content = content.replace(element, len(padded).to_bytes(2, "little") + padded)
    (tmp_path / "x.dcm").write_bytes(content)
    shown = np.asarray(dicom.decode(tmp_path / "x.dcm")) / 65535
    np.testing.assert_allclose(shown, [[0, 0.25, 0.5, 1]], atol=1e-5)


def test_rescaling_comes_before_the_window(shades):
    exact = {"VOILUTFunction": "LINEAR_EXACT"}
    plain = shades(RAMP, WindowCenter="1500", WindowWidth="2001", **exact)
    rescaled = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "WindowCenter": "2000", "WindowWidth": "4002"}
    np.testing.assert_allclose(plain, shades(RAMP, **rescaled, **exact), atol=1e-5)


def test_monochrome1_and_a_negative_slope_invert(shades):
    np.testing.assert_allclose(shades(RAMP, RescaleSlope="-1", RescaleIntercept="0"), 1 - shades(RAMP), atol=2e-5)
    window = {"WindowCenter": "1500", "WindowWidth": "2000"}
    inverted = shades(RAMP, PhotometricInterpretation="MONOCHROME1", **window)
    np.testing.assert_allclose(inverted, 1 - shades(RAMP, **window), atol=2e-5)


def test_signed_values_and_bits_above_those_stored(shades):
    signed = np.array([-2000, -1000, 0, 2000], np.int16)
    dirty = signed.view(np.uint16) & 0x0FFF | 0x5000
    for pixels, bits in ((signed, 16), (signed, 12), (dirty, 12)):
        np.testing.assert_allclose(shades(pixels, bits, PixelRepresentation=1), [[0, 0.25, 0.5, 1]], atol=1e-5)
    np.testing.assert_array_equal(shades(RAMP | 0xF000), shades(RAMP))


def test_a_voi_lut_comes_before_a_window(shades):
    elements = {"VOILUTSequence": lut([0, 15, 60, 255], 1000, 8), "WindowCenter": "1", "WindowWidth": "2"}
    shown = shades(np.array([999, 1001, 1002, 4000], np.uint16), **elements)
    np.testing.assert_allclose(shown, [[0, 15 / 255, 60 / 255, 1]], atol=1e-5)


@pytest.mark.parametrize("bits, most", [(8, 255), (12, 4095), (16, 4095)], ids=["8", "12", "12 declared as 16"])
def test_voi_luts_of_every_width_are_applied(shades, bits, most):
    curve = np.rint(np.linspace(0, 1, 4096) ** 2 * most)
    np.testing.assert_allclose(shades(RAMP, VOILUTSequence=lut(curve, 0, bits)), curve[RAMP][None] / most, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_modality_lut_is_applied(shades, bits):
    shown = shades(np.array([0, 1, 2, 3], np.uint16), ModalityLUTSequence=lut([100, 140, 120, 200], 0, bits))
    np.testing.assert_allclose(shown, [[0, 0.4, 0.2, 1]], atol=1e-5)


def test_padding_is_black_and_ignored_in_stretching(shades):
    padded = np.array([4095, 100, 200, 300], np.uint16)
    np.testing.assert_allclose(shades(padded, PixelPaddingValue=4095), [[0, 0, 0.5, 1]], atol=1e-5)
    inverted = shades(padded, PixelPaddingValue=4095, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(inverted, [[0, 1, 0.5, 0]], atol=1e-5)
    band = shades(np.array([4000, 4095, 0, 100], np.uint16), PixelPaddingValue=4095, PixelPaddingRangeLimit=4000)
    np.testing.assert_allclose(band, [[0, 0, 0, 1]], atol=1e-5)


@pytest.mark.parametrize(
    "photometric, planar", [("RGB", 0), ("RGB", 1), ("YBR_FULL", 0), ("YBR_FULL", 1), ("YBR_FULL_422", 0)]
)
def test_colour_becomes_luma(shades, photometric, planar):
    rgb = np.stack([np.full((4, 6), value, np.uint8) for value in (200, 100, 50)], -1)
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    stored = rgb if photometric == "RGB" else np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    stored = np.moveaxis(stored, -1, 0).reshape(rgb.shape) if planar else stored
    if photometric == "YBR_FULL_422":  # two of luma for one of each chroma
        stored = stored[:, ::2, [0, 0, 1, 2]]
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": photometric, "PlanarConfiguration": planar}
    np.testing.assert_allclose(shades(stored, 8, Modality="SC", Columns=6, **colour) * 255, luma, atol=1)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_syntaxes_give_the_same_image(tmp_path, syntax, signed):
    elements = {"WindowCenter": "1000", "WindowWidth": "2500", "PixelRepresentation": int(signed)}
    plain = dicom.decode(write(tmp_path / "plain", WIDE, 12, **elements))
    packed = dicom.decode(write(tmp_path / "packed", WIDE, 12, syntax, LOSSLESS[syntax](WIDE), **elements))
    np.testing.assert_array_equal(packed, plain)
    assert np.ptp(np.asarray(plain)) > 30_000


def test_big_endian_and_a_stream_in_a_container_are_read(tmp_path):
    plain = dicom.decode(write(tmp_path / "plain", WIDE, 12))
    jp2 = imagecodecs.jpeg2k_encode(WIDE, codecformat="jp2", reversible=True, level=0)
    jp2 = jp2[:12] + b"\0\0\0\0" + jp2[16:]  # a box without length, which readers of boxes would never pass
    swapped = write(tmp_path / "swapped", WIDE.byteswap(), 12, uid.ExplicitVRBigEndian)
    for path in (swapped, write(tmp_path / "jp2", WIDE, 12, uid.JPEG2000Lossless, jp2)):
        np.testing.assert_array_equal(dicom.decode(path), plain)


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda syntax: syntax.name)
def test_lossy_syntaxes_give_nearly_the_same_image(tmp_path, syntax):
    elements = {"WindowCenter": "2048", "WindowWidth": "4096"}
    plain = dicom.decode(write(tmp_path / "plain", WIDE, 12, **elements))
    packed = dicom.decode(write(tmp_path / "packed", WIDE, 12, syntax, LOSSY[syntax](WIDE), **elements))
    assert 0 < np.abs(np.asarray(packed).astype(int) - np.asarray(plain)).mean() < 65535 / 100


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "YBR_FULL_422"])
def test_baseline_jpeg_is_read(tmp_path, photometric):
    colour = photometric != "MONOCHROME2"
    stream = imagecodecs.jpeg8_encode(np.stack([GREY] * 3, -1) if colour else GREY, level=95)
    elements = {
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": photometric,
        "PlanarConfiguration": 0,
    }
    image = dicom.decode(write(tmp_path / "x", GREY, 8, uid.JPEGBaseline8Bit, stream, **elements))
    shown = np.asarray(image) / (1 if colour else 257)
    assert np.abs(shown - GREY).mean() < 3


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"Modality": "CT"}, "not a radiograph: its modality is CT"),
        ({"Modality": "MG"}, "not a radiograph: its modality is MG"),
        ({"Modality": "JANE DOE"}, "not a radiograph: its modality is unknown"),
        ({"BodyPartExamined": "KNEE"}, "not a chest: its body part is KNEE"),
        ({"BodyPartExamined": "SKULL"}, "not a chest: its body part is SKULL"),
        ({"NumberOfFrames": "2"}, "more than one frame"),
        ({"Rows": 60000, "Columns": 60000}, "60000x60000 pixels, more than 100,000,000"),
        ({"Rows": 0}, "it has no Rows"),
        ({"Rows": 65}, "cut short"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric interpretation"),
        ({"PhotometricInterpretation": "RGB"}, "samples per pixel (1) do not fit"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 of 32 bits, samples per pixel 1: not supported"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": "1e308"}, "out of range"),
    ],
)
def test_what_is_no_chest_radiograph_is_refused_with_the_reason(tmp_path, elements, says):
    assert says in refusal(write(tmp_path / "secret.dcm", WIDE, 12, **elements))


@pytest.mark.parametrize("part", ["CHEST", "THORAX", "LUNG", "RIBS", "", "CHEST AP"])
@pytest.mark.parametrize("modality", ["CR", "DX", "DR", "RG", "RF", "OT", "SC", ""])
def test_what_may_be_a_chest_is_read(tmp_path, part, modality):
    assert dicom.decode(write(tmp_path / "x", WIDE, 12, BodyPartExamined=part, Modality=modality)).size == (64, 64)


def test_a_file_without_pixel_data_is_refused(tmp_path):
    content = write(tmp_path / "x", WIDE, 12).read_bytes()
    (tmp_path / "x").write_bytes(content[: content.index(b"\xe0\x7f\x10\0")])
    assert "it has no PixelData" in refusal(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"text", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 50])
def test_a_file_that_is_no_dicom_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    refusal(tmp_path / "x")
    assert dicom.patient_key(tmp_path / "x") is None
    assert refusal(tmp_path / "missing") == "No such file or directory"


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, *LOSSLESS, *LOSSY], ids=lambda syntax: syntax.name)
def test_truncated_files_are_refused(tmp_path, syntax):
    packed = (LOSSLESS | LOSSY).get(syntax, lambda pixels: None)(WIDE)
    whole = write(tmp_path / "x", WIDE, 12, syntax, packed).read_bytes()
    for share in (0.3, 0.6, 0.95):
        (tmp_path / "x").write_bytes(whole[: int(len(whole) * share)])
        refusal(tmp_path / "x")
    if packed:  # the container is complete, the stream in it is not
        refusal(write(tmp_path / "x", WIDE, 12, syntax, packed[: len(packed) // 2]))


@pytest.mark.parametrize("syntax", list(LOSSLESS)[2:-1] + list(LOSSY), ids=lambda syntax: syntax.name)
def test_a_stream_that_declares_another_size_is_refused(tmp_path, syntax):
    packed = (LOSSLESS | LOSSY)[syntax](WIDE)
    huge = packed.replace(b"\0\x40\0\x40", b"\xff\xff\xff\xff").replace(b"\0\0\0\x40", b"\x7f\xff\xff\xff")
    assert huge != packed
    assert "its size differs" in refusal(write(tmp_path / "x", WIDE, 12, syntax, huge))


def test_a_file_that_inflates_to_too_much_is_refused(tmp_path):
    path = write(tmp_path / "x", WIDE, 12, uid.DeflatedExplicitVRLittleEndian)
    assert "inflates to more than" in refusal(path, max_inflated=path.stat().st_size + 1)
    assert "a file of more than" in refusal(path, max_bytes=path.stat().st_size - 1)


def test_broken_bytes_never_reveal_the_patient(tmp_path):
    rng = np.random.default_rng(0)
    packs = LOSSLESS | LOSSY
    whole = [write(tmp_path / "x", WIDE, 12, syntax, packs[syntax](WIDE)).read_bytes() for syntax in packs]
    refused = 0
    for data in map(bytearray, whole * 12):
        for place in rng.integers(132, len(data), 4):
            data[place] = rng.integers(256)
        (tmp_path / "x").write_bytes(data)
        dicom.patient_key(tmp_path / "x")
        try:
            assert dicom.decode(tmp_path / "x").mode in ("I;16", "L")
        except UnreadableImage as reason:
            refused += 1
            assert "\n" not in str(reason) and not any(secret in str(reason) for secret in SECRETS)
    assert refused > 20


def test_keys_of_patients_do_not_name_them(tmp_path):
    patients = ["A1", "A1 ", "A2", "", " "]
    keys = [dicom.patient_key(write(tmp_path / "x", WIDE, 12, PatientID=patient)) for patient in patients]
    assert keys[0] == keys[1] != keys[2] and keys[3:] == [None, None]
    assert len(keys[0]) == 16 and int(keys[0], 16) and "A1" not in keys[0]
    assert keys[0] == hashed("A1")


def test_pydicoms_own_decoders_stay_unchanged():
    """Other code in the process may use them, with its own plug-ins."""
    assert "pneumojax" not in get_decoder(uid.JPEG2000Lossless).available_plugins


def test_no_warning_reaches_the_user(tmp_path):
    """pydicom warns about misspelt encodings and files that end too early, and names the file."""
    path = write(tmp_path / "secret name", WIDE, 12, PatientName="x")
    charset = b"\x08\0\5\0CS\x0a\0ISO-IR 100"
    path.write_bytes(path.read_bytes().replace(b"\x08\0\x16\0UI", charset + b"\x08\0\x16\0UI", 1))
    cut = write(tmp_path / "cut", WIDE, 12, uid.RLELossless, run_lengths(WIDE))
    cut.write_bytes(cut.read_bytes()[:-9])
    code = (
        "import logging, sys; logging.basicConfig(level=0); from pathlib import Path\n"
        "from pneumojax.data.decode import dicom, quiet; quiet.quiet_decoders()\n"
        "print(dicom.decode(Path(sys.argv[1])).size)\n"
        "try: dicom.decode(Path(sys.argv[2]))\nexcept dicom.UnreadableImage as reason: print(reason)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, path, cut],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == "(64, 64)\nits pixel data is cut short\n"
    assert "secret" not in done.stderr and "pydicom" not in done.stderr and "Warning" not in done.stderr


def test_a_jpeg_of_endless_scans_is_refused(tmp_path):
    """Each scan has few bytes and costs the decoder another pass over all the pixels."""
    whole = io.BytesIO()
    Image.fromarray(phantom.render(0, 0, 0, 64)[0]).save(whole, "JPEG", progressive=True)
    stream = whole.getvalue()
    scan = stream.rindex(b"\xff\xda")
    stream = stream[:scan] + stream[scan:-2] * 100 + stream[-2:]
    path = write(tmp_path / "x", np.zeros((64, 64), np.uint8), 8, uid.JPEGBaseline8Bit, stream)
    with pytest.raises(UnreadableImage, match="more than 64 scans"):
        dicom.decode(path)
