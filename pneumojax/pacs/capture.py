"""The picture of one film: a secondary capture with the heat map and its legend, in the film's study, its own series.

It is no segmentation: a heat map has no border.
"""

import numpy as np
from highdicom.sr import CodedConcept
from jaxtyping import Float32, UInt8
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from pneumojax.inference.overlay import AGAINST, FOR, smoothed, tinted
from pneumojax.inference.predictions import Row
from pneumojax.pacs import codes as concepts
from pneumojax.pacs.identity import Kind, key_of, result_uid, series_uid
from pneumojax.pacs.report import MANUFACTURER, moment, series_description

SERIES_NUMBER = 9902
_STRIP = 0.045  # height of a line of the legend, relative to the picture's width
_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "IssuerOfPatientID", "AccessionNumber",
    "StudyID", "StudyDate", "StudyTime", "StudyDescription", "StudyInstanceUID", "ReferringPhysicianName",
    "SpecificCharacterSet", "TimezoneOffsetFromUTC",
)  # fmt: skip


def capture(
    row: Row,
    source: Dataset,
    picture: UInt8[np.ndarray, "height width"],
    values: Float32[np.ndarray, "size size"],
    method: str,
) -> Dataset:
    """Write the secondary capture.

    Args:
      row: the prediction; its `error` is empty.
      source: of the film, see `source.read`.
      picture: the film.
      values: the attribution map.
      method: by which the map was made, such as "grad-cam".
    """
    film, now = str(source.SOPInstanceUID), moment(source)
    dataset = Dataset()
    for keyword in _COPIED:
        if keyword in source:
            dataset[keyword] = source[keyword]
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = result_uid(Kind.CAPTURE, film, key_of(row))
    dataset.SeriesInstanceUID = series_uid(Kind.CAPTURE, film, key_of(row))
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBER, 1
    dataset.SeriesDescription = series_description(row, " heat map")
    dataset.Modality, dataset.ConversionType, dataset.BodyPartExamined = "OT", "WSD", "CHEST"
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, row.model
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = row.version, row.digest
    dataset.ContentDate, dataset.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = f"Heat map by {method} over the film, orange for pneumonia and blue against it"
    dataset.SourceImageSequence = [_reference(source)]
    dataset.PatientOrientation = ""
    dataset.BurnedInAnnotation = "NO"  # the legend names no patient
    if source.get("LossyImageCompression") == "01" and "LossyImageCompressionRatio" in source:
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = source.LossyImageCompressionRatio
        if "LossyImageCompressionMethod" in source:
            dataset.LossyImageCompressionMethod = source.LossyImageCompressionMethod
    _add_pixels(dataset, drawn(row, picture, values, method))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    return dataset


def _reference(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(concepts.SOURCE_IMAGE)]
    return reference


def _add_pixels(dataset: Dataset, pixels: UInt8[np.ndarray, "height width 3"]) -> None:
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset["PixelData"].VR = "OB"


def drawn(
    row: Row, picture: UInt8[np.ndarray, "height width"], values: Float32[np.ndarray, "size size"], method: str
) -> UInt8[np.ndarray, "all_rows width 3"]:
    """Draw the map over the film, and the legend below it."""
    width = picture.shape[1]
    small = Image.fromarray(smoothed(values).astype(np.float32))
    enlarged = np.asarray(small.resize(picture.shape[::-1], Image.Resampling.BILINEAR))
    film = tinted(picture.astype(np.float32), enlarged)
    return np.concatenate([film, _legend(_lines(row, method), width)])


def _lines(row: Row, method: str) -> list[str]:
    first = [f"FLAGGED, no decision: {'; '.join(map(concepts.words_of, row.flags))}"] if row.flags else []
    return [
        *first,
        f"Probability of pneumonia {row.probability:.3f}, by PneumoJAX {row.model} {row.version} ({row.digest})",
        f"{method}: orange is evidence for pneumonia, blue against it; scaled to this film's largest value",
        "Research software. Not a diagnosis. Not verified by a person.",
    ]


def _legend(lines: list[str], width: int) -> UInt8[np.ndarray, "rows width 3"]:
    """Draw a bar of the map's colors with its meaning, and lines of text as large as their longest allows."""
    line = max(round(_STRIP * width), 8)
    image = Image.new("RGB", (width, line * (len(lines) + 1)))
    image.paste(Image.fromarray(_bar(width, line * 2 // 3)), (0, line // 6))
    draw = ImageDraw.Draw(image)
    size = line * 0.75
    ends = ImageFont.load_default(max(size * 0.8, 6))
    draw.text((line // 2, line // 6), "against pneumonia", fill="white", font=ends)
    draw.text((width - line // 2, line // 6), "for pneumonia", fill="white", font=ends, anchor="ra")
    longest = max(draw.textlength(text, ImageFont.load_default(size)) for text in lines)
    font = ImageFont.load_default(max(min(size, size * (width - 2 * line) / longest), 6))
    for number, text in enumerate(lines, start=1):
        draw.text((line // 2, number * line), text, fill="white", font=font)
    return np.asarray(image)


def _bar(width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the colors from the strongest evidence against pneumonia, at the left, to the strongest for it."""
    strength = np.linspace(-1, 1, width)[None, :, None]
    row = np.abs(strength) * np.where(strength > 0, FOR, AGAINST)
    return np.repeat(np.rint(row).astype(np.uint8), height, axis=0)
