"""DICOM files for tests."""

import imagecodecs
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from pneumojax.data.sources import phantom

GREY = phantom.render(0, 0, 1, 64)[0]
WIDE = (GREY.astype(np.uint16) << 4) | (GREY >> 4)  # 12 bits
SECRETS = ("Doe^Jane", "ID-4711", "19700101", "Hospital")


def write(path, pixels, bits, syntax=uid.ExplicitVRLittleEndian, stream=None, **elements):
    """Write a radiograph; `stream` are its compressed pixels."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3.4"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.InstitutionName = SECRETS
    dataset.Modality, dataset.BodyPartExamined = "DX", "CHEST"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 if bits <= 8 else 16, bits, bits - 1
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream]) if stream else pixels.tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    dataset["PixelData"].is_undefined_length = stream is not None
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut(data, first, bits, width=2):
    """Make a sequence of one lookup table whose entries, of `width` bytes, start at the value `first`."""
    item = Dataset()
    item.LUTDescriptor = [len(data), first, bits]
    item.add_new("LUTData", "OW", np.array(data, f"<u{width}").tobytes())
    return [item]


def run_lengths(pixels):
    """Encode 64x64 pixels of 12 bits by RLE."""
    header = {"rows": 64, "columns": 64, "samples_per_pixel": 1, "bits_allocated": 16, "bits_stored": 12}
    header |= {"pixel_representation": 0, "photometric_interpretation": "MONOCHROME2", "number_of_frames": 1}
    return RLELosslessEncoder.encode(pixels.tobytes(), encoding_plugin="pydicom", **header)


LOSSLESS = {
    uid.ImplicitVRLittleEndian: lambda pixels: None,
    uid.DeflatedExplicitVRLittleEndian: lambda pixels: None,
    uid.JPEGLossless: lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=12, predictor=4),
    uid.JPEGLosslessSV1: lambda p: imagecodecs.jpeg8_encode(p, lossless=True, bitspersample=12, predictor=1),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEG2000Lossless: lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k", reversible=True, level=0),
    uid.HTJ2KLossless: lambda p: imagecodecs.htj2k_encode(p, reversible=True),
    uid.RLELossless: run_lengths,
}

LOSSY = {
    uid.JPEGExtended12Bit: lambda pixels: imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=12),
    uid.JPEGLSNearLossless: lambda pixels: imagecodecs.jpegls_encode(pixels, level=4),
    uid.JPEG2000: lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", level=90),
    uid.HTJ2K: lambda pixels: imagecodecs.htj2k_encode(pixels, 0.001, reversible=False),
}
