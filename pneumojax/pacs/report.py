"""The report on one film: a Comprehensive 3D SR by TID 1500, in the film's study, in a series of its own."""

from datetime import datetime
from typing import cast

from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

from pneumojax.inference.predictions import Row
from pneumojax.pacs import codes as concepts
from pneumojax.pacs.identity import Kind, key_of, result_uid, series_uid

SERIES_NUMBER = 9901
MANUFACTURER = "PneumoJAX"
_NOTE = "Research software, not a medical device. Not verified by a person. It knows pneumonia and normal only."


def report(row: Row, source: Dataset) -> Comprehensive3DSR:
    """Write the report.

    A film with flags gets no decision; its report says first why.

    Args:
      row: the prediction; its `error` is empty.
      source: of the film, see `source.read`.
    """
    film = str(source.SOPInstanceUID)
    document = Comprehensive3DSR(
        evidence=[source],
        content=_content(row, source),
        series_instance_uid=series_uid(Kind.REPORT, film, key_of(row)),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(Kind.REPORT, film, key_of(row)),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=row.model,
        software_versions=row.version,
        device_serial_number=row.digest,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=series_description(row),
        coding_schemes=[concepts.scheme()],
    )
    now = moment(source)
    document.ContentDate, document.ContentTime = DA(now.strftime("%Y%m%d")), TM(now.strftime("%H%M%S"))
    for keyword in ("IssuerOfPatientID", "TimezoneOffsetFromUTC"):
        if keyword in source:
            document[keyword] = source[keyword]
    return document


def moment(source: Dataset) -> datetime:
    """Return the time, in the zone that the film states for all of its times, or else in this machine's."""
    offset = source.get("TimezoneOffsetFromUTC")
    return datetime.now(datetime.strptime(offset, "%z").tzinfo) if offset else datetime.now()


def series_description(row: Row, what: str = "") -> str:
    """Return what a worklist shows of a result, at most 64 characters."""
    state = "FLAGGED, no decision" if row.flags else f"P(pneumonia) {row.probability:.3f}"
    return f"PneumoJAX {row.model}{what}: {state}, unverified"[:64]


def note(row: Row) -> str:
    """Return the sentences that a reader sees first."""
    if not row.flags:
        return _NOTE
    reasons = "; ".join(map(concepts.words_of, row.flags))
    return f"FLAGGED: {reasons}. Do not rely on the probability; no decision is given. {_NOTE}"


def _content(row: Row, source: Dataset) -> MeasurementReport:
    groups = [_caution(row, source)] if row.flags else []
    device = DeviceObserverIdentifyingAttributes(
        uid=_device_uid(row), name="PneumoJAX", manufacturer_name=MANUFACTURER, model_name=row.model,
        serial_number=row.digest,
    )  # fmt: skip
    context = ObservationContext(
        observer_device_context=ObserverContext(codes.DCM.Device, device), observer_person_context=None
    )
    content = MeasurementReport(
        observation_context=context,
        procedure_reported=concepts.CHEST_FILM,
        imaging_measurements=[*groups, _prediction(row, source)],
    )
    items = content[0].ContentSequence
    items.insert(
        len(items) - 1,  # before the measurements
        TextContentItem(concepts.COMMENT, note(row), RelationshipTypeValues.CONTAINS),
    )
    return content


def _device_uid(row: Row) -> str:
    return result_uid(Kind.REPORT, "device", key_of(row))


def _group(row: Row, source: Dataset, what: str, **parts) -> MeasurementsAndQualitativeEvaluations:
    film = str(source.SOPInstanceUID)
    tracked = result_uid(Kind.REPORT, f"{film}/{what}", key_of(row))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=tracked, identifier=what),
        source_images=[SourceImageForMeasurementGroup(source.SOPClassUID, film)],
        **parts,
    )


def _caution(row: Row, source: Dataset) -> MeasurementsAndQualitativeEvaluations:
    """Return the group that says why there is no decision."""
    flags = [QualitativeEvaluation(concepts.CAUTION, concepts.of_flag(flag)) for flag in row.flags]
    none = QualitativeEvaluation(concepts.DECISION, concepts.NO_DECISION)
    return _group(row, source, "caution", qualitative_evaluations=[*flags, none])


def _prediction(row: Row, source: Dataset) -> MeasurementsAndQualitativeEvaluations:
    parameters = [f"digest={row.digest}"] + [f"site={row.site}"] * bool(row.site)
    algorithm = AlgorithmIdentification(name=f"PneumoJAX {row.model}", version=row.version, parameters=parameters)
    numbers = {concepts.PROBABILITY: row.probability, concepts.THRESHOLD: row.threshold}
    numbers |= {concepts.THRESHOLD_SENS95: row.threshold_sens95, concepts.OOD_SCORE: row.ood_score}
    measurements = [Measurement(name, cast(float, value), concepts.NO_UNITS) for name, value in numbers.items()]
    decisions = {concepts.DECISION: row.decision, concepts.DECISION_SENS95: row.decision_at_sens95}
    evaluations = [QualitativeEvaluation(name, _presence(value)) for name, value in decisions.items()]
    positive = row.decision == "pneumonia" and not row.flags
    return _group(
        row, source, "prediction",
        algorithm_id=algorithm,
        finding_type=concepts.PNEUMONIA if positive else None,
        measurements=measurements,
        qualitative_evaluations=None if row.flags else evaluations,
    )  # fmt: skip


def _presence(decision: str | None) -> Code:
    return concepts.PRESENT if decision == "pneumonia" else concepts.ABSENT
