"""DICOM as devices and converters write it, not as the standard has it: the same picture, or what is wrong by name."""

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import LOSSLESS, LOSSY, SECRETS, WIDE, lut, run_lengths, write
from pydicom import uid

from pneumojax.data.decode import dicom, images
from pneumojax.data.decode.dicom_start import HEAD
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.patient_hash import hashed

RAMP = np.array([0, 1000, 2000, 4000], np.uint16)


@pytest.fixture
def shades(tmp_path):
    """Decode pixels with these elements in the header to shades, 0 to 1."""

    def shades(pixels, bits=12, **elements):
        return np.asarray(dicom.decode(write(tmp_path / "x.dcm", np.atleast_2d(pixels), bits, **elements))) / 65535

    return shades


def refusal(path):
    with pytest.raises(UnreadableImage) as caught:
        dicom.decode(path)
    assert not any(secret.lower() in str(caught.value).lower() for secret in (*SECRETS, str(path.parent)))
    return str(caught.value)


def test_samples_in_the_upper_bits_are_shifted_down(shades):
    """`HighBit` says where they end; what lies below them is no part of the picture."""
    for elements in ({}, {"WindowCenter": "1500", "WindowWidth": "2000"}):
        upper = shades(RAMP << 4 | 0x9, HighBit=15, **elements)
        np.testing.assert_array_equal(upper, shades(RAMP, **elements))
    np.testing.assert_array_equal(shades(RAMP << 2 | 0x8001, HighBit=13), shades(RAMP))
    signed = np.array([-2000, -1000, 0, 2000], np.int16)
    np.testing.assert_allclose(shades(signed << 4, HighBit=15, PixelRepresentation=1), [[0, 0.25, 0.5, 1]], atol=1e-5)
    for impossible in (0, 5, 16, 99):
        np.testing.assert_array_equal(shades(RAMP, HighBit=impossible), shades(RAMP))


def test_run_lengths_keep_samples_in_the_upper_bits(tmp_path):
    plain = dicom.decode(write(tmp_path / "plain", WIDE, 12))
    upper = dicom.decode(write(tmp_path / "x", WIDE, 12, uid.RLELossless, run_lengths(WIDE << 4), HighBit=15))
    np.testing.assert_array_equal(upper, plain)


@pytest.mark.parametrize("times", [2, 4, 16])
@pytest.mark.parametrize("count", [1, 18, 60], ids=["a dead pixel", "a marker", "a large marker"])
def test_a_few_pixels_far_from_all_others_do_not_set_the_range(shades, times, count):
    plain = shades(WIDE, 16)
    marked, raised = WIDE.copy(), WIDE + 30_000
    marked.ravel()[:count] = min(times * int(WIDE.max()), 65535)
    shown = shades(marked, 16)
    assert (shown.ravel()[:count] == 1).all()
    np.testing.assert_allclose(shown.ravel()[count:], plain.ravel()[count:], atol=1e-5)
    raised.ravel()[:count] = 0
    np.testing.assert_allclose(shades(raised, 16).ravel()[count:], plain.ravel()[count:], atol=1e-5)


def test_a_small_bright_part_of_the_picture_stays_in_range(shades):
    """What is not far from the rest is anatomy."""
    drawn = np.tile(np.linspace(0, 2000, 64).astype(np.uint16), (64, 1))
    drawn[0, :10] = 2900
    np.testing.assert_allclose(shades(drawn), drawn / 2900, atol=1e-5)


@pytest.mark.parametrize("count", [255, 256])
def test_a_voi_lut_of_bytes_is_applied(shades, count):
    curve = np.rint(np.linspace(0, 1, count) ** 2 * 255)
    pixels = np.array([0, 100, 200, count - 1], np.uint16)
    table = lut(np.append(curve, [0] * (count % 2)), 0, 8, width=1)  # of even length, as all elements are
    table[0].LUTDescriptor = [count, 0, 8]
    np.testing.assert_allclose(shades(pixels, VOILUTSequence=table), [curve[pixels] / 255], atol=1e-5)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "PixelData"])
def test_what_is_missing_is_named(tmp_path, keyword):
    dataset = pydicom.dcmread(write(tmp_path / "x", WIDE, 12))
    del dataset[keyword]
    dataset.save_as(tmp_path / "x")
    assert f"it has no {keyword}" in refusal(tmp_path / "x")


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_what_is_broken_is_named(tmp_path, keyword):
    path = write(tmp_path / "x", WIDE, 12, **{keyword: [pydicom.Dataset()]})
    assert refusal(path) == f"broken DICOM: its {keyword} cannot be read"


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.JPEGLSLossless]
)
@pytest.mark.parametrize("meta", [True, False])
def test_a_file_without_preamble_is_read(tmp_path, syntax, meta):
    """So is one without any meta information, as old devices made them, if it is not compressed."""
    compressed = syntax == uid.JPEGLSLossless
    pixels = WIDE.byteswap() if syntax == uid.ExplicitVRBigEndian else WIDE
    path = write(tmp_path / "x", pixels, 12, syntax, imagecodecs.jpegls_encode(WIDE) if compressed else None)
    plain, content = dicom.decode(path), path.read_bytes()
    path.write_bytes(content[132 if meta else 144 + int.from_bytes(content[140:144], "little") :])
    assert images.format_of(path.read_bytes()[:HEAD])[0] == "DICOM"
    assert dicom.patient_key(path) == hashed("ID-4711")
    if meta or not compressed:
        np.testing.assert_array_equal(dicom.decode(path), plain)
    else:
        refusal(path)


@pytest.mark.parametrize("content", [b"\2\0\0\0", b"\x08\0 some text that is long enough to hold several words" * 9])
def test_other_content_is_not_taken_for_dicom(content):
    assert images.format_of(content) == ("", None)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEGLossless, uid.JPEGExtended12Bit])
@pytest.mark.parametrize("padding", [b"\0" * 2, b"\0" * 5000, b"\xff" * 300, b" " * 64, b"\0\xff junk"], ids=range(5))
def test_padding_after_the_end_of_a_stream_is_ignored(tmp_path, syntax, padding):
    stream = (LOSSLESS | LOSSY)[syntax](WIDE)
    plain = dicom.decode(write(tmp_path / "plain", WIDE, 12, syntax, stream))
    padded = dicom.decode(write(tmp_path / "padded", WIDE, 12, syntax, stream + padding))
    np.testing.assert_array_equal(padded, plain)


@pytest.mark.parametrize("view", ["LL", "RL", "LLD", "RLD", "LLO", "RLO", "LATERAL", "LAT", "left lateral "])
def test_lateral_views_are_recognised(tmp_path, view):
    assert dicom.is_lateral(write(tmp_path / "x", WIDE, 12, ViewPosition=view))


@pytest.mark.parametrize("view", ["PA", "AP", "", "AP SUPINE"])
def test_other_views_are_not_lateral(tmp_path, view):
    assert not dicom.is_lateral(write(tmp_path / "x", WIDE, 12, ViewPosition=view))
    (tmp_path / "x").write_bytes(b"broken")
    assert not dicom.is_lateral(tmp_path / "x")
