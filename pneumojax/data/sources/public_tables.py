"""How public sets, and people's own tables, say which films show pneumonia: one row for each form of CSV.

Columns are in small letters and digits, without spaces and punctuation.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pneumojax.data.sources.labels import LABELS, RULES, finding_of, label_of

ID_COLUMNS = ("path", "file", "filepath", "filename", "image", "imageid", "imagepath", "imageindex", "imagename", "id")
ID_COLUMNS += ("sopinstanceuid", "dicomid", "xrayimagename", "patientid")
PATIENT_COLUMNS = ("patient", "subjectid", "subject", "patientid")
VIEW_COLUMNS = ("viewposition", "view", "projection", "frontallateral")
SPLIT_COLUMNS = ("split", "datasettype")
READER_COLUMNS = ("radid",)
MODALITY = "modality"
STUDY = "studyid"

_COVID = {"covid 19", "sars", "mers cov", "ards", "pneumocystis", "streptococcus", "klebsiella", "legionella", "e coli"}
_COVID |= {"chlamydophila", "mycoplasma", "influenza", "varicella", "lipoid", "tuberculosis", "no finding"}

_NIH_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}


class Unclear(Exception):
    """A value that means no label; the message says what is expected."""


class Form(NamedTuple):
    """A form of CSV.

    Attributes:
      name: of the public set; empty for people's own tables.
      needs: columns that such a table has.
      column: the column that labels; empty: that of the finding which the label rule reads.
      label: (value of that column, label rule) -> label, or None for a film to leave out; raises `Unclear`.
      ids: columns that may name the image, the first that is there.
      patients: the same for its patient.
      by_rule: whether a label depends on the label rule.
      boxes: whether an image has a row for each of its findings, and is positive if one of them is.
      lists: file beside the table that lists the images of a split -> that split.
    """

    name: str
    needs: tuple[str, ...]
    column: str
    label: Callable[[str, str], int | None]
    ids: tuple[str, ...] = ID_COLUMNS
    patients: tuple[str, ...] = PATIENT_COLUMNS
    by_rule: bool = True
    boxes: bool = False
    lists: Mapping[str, str] = {}


def _by_rule(rule: str, no_finding: int, pneumonia: int) -> int | None:
    """Return the label by a rule from two findings: 1 present, 0 absent, -1 uncertain."""
    finding, labels = RULES[rule]
    return labels.get(no_finding if finding == "No Finding" else pneumonia)


def _names_pneumonia(findings: set[str]) -> bool:
    return any(re.search(r"\bpneumonia\b", finding) for finding in findings)


def plain(text: str, rule: str) -> int | None:
    """Read a label as it stands, whatever the rule."""
    label = label_of(text)
    if label is None:
        raise Unclear(f"one of {', '.join(LABELS)}")
    return label


def finding(text: str, rule: str) -> int | None:
    """Read the value of the finding that the rule reads."""
    value = finding_of(text)
    if value is None:
        raise Unclear("1, 0, -1 or blank")
    return RULES[rule][1].get(value)


def certain(text: str, rule: str) -> int | None:
    """Read the column Pneumonia under a rule that reads another one, which the table lacks."""
    label = label_of(text)
    if label is None:
        rules = ", ".join(name for name, (column, _) in RULES.items() if column == "Pneumonia")
        raise Unclear(f"1 or 0 by the rule {rule}: choose --config.data.label_rule from {rules}")
    return label


def _nih(text: str, rule: str) -> int | None:
    findings = {name.strip().lower() for name in text.split("|")} - {""}
    if not findings:
        raise Unclear("No Finding, or names of findings with | between them")
    return _by_rule(rule, "no finding" in findings, _names_pneumonia(findings))


def _padchest(text: str, rule: str) -> int | None:
    if text.lower() in ("", "nan"):
        return None
    if not (match := re.fullmatch(r"\[(.*)\]", text)):
        raise Unclear("a list such as ['pneumonia', 'pleural effusion']")
    findings = {name.strip(" '\"").lower() for name in match[1].split(",")} - {"", "unchanged"}
    if not findings or "exclude" in findings:
        return None
    return _by_rule(rule, findings == {"normal"}, _names_pneumonia(findings))


def _rsna(text: str, rule: str) -> int | None:
    findings = {"normal": (1, 0), "lung opacity": (0, 1), "no lung opacity / not normal": (0, 0)}.get(text.lower())
    return plain(text, rule) if findings is None else _by_rule(rule, *findings)


def _vindr(text: str, rule: str) -> int | None:
    if not text:
        raise Unclear("the name of a finding, or No finding")
    return _by_rule(rule, text.lower() == "no finding", _names_pneumonia({text.lower()}))


def _covid(text: str, rule: str) -> int | None:
    """Read a finding with what causes it, such as Pneumonia/Viral/COVID-19."""
    findings = {re.sub(r"[\W_]+", " ", name.lower()).strip() for name in re.split("[/,]", text)} - {""}
    if findings <= {"todo", "unknown"}:
        return None
    if not (_names_pneumonia(findings) or findings <= _COVID):
        return plain(text, rule)
    return _by_rule(rule, findings == {"no finding"}, _names_pneumonia(findings) or "covid 19" in findings)


# The first that a table fits counts.
FORMS = (
    Form("", ("target",), "target", plain, by_rule=False),
    Form("", ("label",), "label", plain, by_rule=False),
    Form("NIH ChestX-ray14", ("imageindex", "findinglabels"), "findinglabels", _nih, ("imageindex",), lists=_NIH_LISTS),
    Form("PadChest", ("imageid", "labels"), "labels", _padchest, ("imageid",)),
    Form("MIMIC-CXR", ("dicomid", "nofinding"), "", finding),
    Form("MIMIC-CXR", ("dicomid", "pneumonia"), "", finding),
    Form("VinDr-CXR", ("imageid", "nofinding"), "", finding, ("imageid",)),
    Form("VinDr-CXR, boxes", ("imageid", "classname"), "classname", _vindr, ("imageid",), boxes=True),
    Form("", ("nofinding",), "", finding),
    Form("", ("pneumonia",), "", finding),
    Form("RSNA, classes", ("patientid", "class"), "class", _rsna, ("patientid",)),
    Form("", ("class",), "class", plain, by_rule=False),
    Form("", ("diagnosis",), "diagnosis", plain, by_rule=False),
    Form("COVID-19 sets", ("finding", "patientid"), "finding", _covid),
    Form("", ("finding",), "finding", _covid),
)


def columns_of(forms: Iterable[Form]) -> set[str]:
    """Return the columns that some forms read, by their normalized names."""
    of_forms = {column for form in forms for column in (*form.needs, form.column, *form.ids, *form.patients)}
    of_all = {*VIEW_COLUMNS, *SPLIT_COLUMNS, *READER_COLUMNS, MODALITY, STUDY, "nofinding", "pneumonia"}
    return of_all | of_forms - {""}  # the column of some forms depends on the rule


COLUMNS = columns_of(FORMS)
LABEL_COLUMNS = ("target", "label", "pneumonia", "no finding", "class", "diagnosis", "finding", "finding labels")
