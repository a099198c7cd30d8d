"""The audit's page: one safe, self-contained file that shows each finding, and stays small."""

import json

import numpy as np
import pytest
from etils import epath
from page_outline import HOSTILE, Outline, require_self_contained, words

from pneumojax.reports.audit_report import MAX_GROUPS, MAX_PER_GROUP, MAX_PICTURES, refuse_other_source, render, write
from pneumojax.runtime.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (150, 150), dtype=np.uint8)


def noise(id):
    return NOISE


def finding(ids, kind="inverted", severity="warning", notes=None):
    count, short = len(ids), f"{len(ids)} of {kind}"
    fields = {"kind": kind, "severity": severity, "count": count, "images": count, "short": short, "what": "It means."}
    return fields | {"ids": ids, "notes": notes or {}}


def audit(*findings, **changes):
    splits = {
        "train": {"n": 5216, "normal": 1341, "pneumonia": 3875, "majority_accuracy": 3875 / 5216},
        "test": {"n": 9, "normal": 5, "pneumonia": 4, "majority_accuracy": 5 / 9},
    }
    fields = {"source": "chests", "location": "/data/chests", "notice": None, "splits": splits}
    return fields | {"findings": list(findings)} | changes


def test_an_audit_without_findings_says_so_first():
    page = render(audit(), noise)
    assert 'class="verdict better"' in page
    text = words(page)
    assert text.index("No findings.") < text.index("Composition")
    assert "Audit: 5,225 images; nothing found." in text
    assert "train 5,216 1,341 3,875 0.743 always pneumonia" in text
    assert "test 9 5 4 0.556 always normal" in text


def test_findings_are_counted_explained_and_shown():
    page = render(
        audit(
            finding([["a.png", "b.png"]], "identical_across_splits", "error", notes={"b.png": "test, normal"}),
            finding(["c.png", "d.png"]),
            finding(["e.png"], "colour"),
        ),
        lambda id: None if id == "d.png" else NOISE,
    )
    text = words(page)
    assert "1 error, 2 warnings." in text and 'class="verdict"' in page
    assert page.count("<img") == 4
    for name in ("a.png", "b.png test, normal", "c.png", "no image d.png", "e.png"):
        assert name in text
    assert text.index("1 of identical_across_splits") < text.index("2 of inverted") < text.index("1 of colour")
    assert text.count("It means.") == 3


def test_the_page_is_self_contained():
    page = render(audit(finding(["a.png"]), finding([["a", "b"]] * 30), finding([])), noise)
    outline = require_self_contained(page)
    assert "img" in outline.tags and "script" not in outline.tags


def test_names_and_notes_are_escaped():
    findings = [finding([HOSTILE], notes={HOSTILE: HOSTILE}), finding([[HOSTILE, "b"]], notes={"b": HOSTILE})]
    page = render(audit(*findings, source=HOSTILE, location=HOSTILE, notice=HOSTILE), noise)
    assert "script" not in Outline(page).tags
    assert page.count("&lt;script&gt;alert(") >= 10


def test_a_page_with_many_findings_stays_small_and_says_how_many_it_omits():
    many = [str(i) for i in range(1000)]
    groups = [many[i : i + 10] for i in range(0, 1000, 10)]
    page = render(audit(*(finding(many if i % 2 else groups) for i in range(14))), noise)
    assert len(page.encode()) <= 5_000_000
    shown = MAX_PICTURES // MAX_PER_GROUP
    assert page.count("<img") == 7 * (MAX_GROUPS + shown * MAX_PER_GROUP)
    assert words(page).count(f"{1000 - MAX_GROUPS} more: audit.json lists them all.") == 7
    assert words(page).count(f"{100 - shown} more: audit.json lists them all.") == 7
    assert words(page).count("4 more in this group.") == 7 * shown


def test_pairs_are_shown_up_to_the_maximum_number_of_groups():
    pairs = [[f"{i}a", f"{i}b"] for i in range(MAX_GROUPS)]
    page = render(audit(finding(pairs)), noise)
    assert page.count('class="group"') == MAX_GROUPS and "more" not in words(page)


@pytest.mark.parametrize("majority", [None, 0.5])
def test_splits_without_labels_have_no_baseline(majority):
    split = {"n": 3, "normal": 0, "pneumonia": 0, "majority_accuracy": majority}
    page = render(audit(splits={"all": split}), noise)
    assert ("no labels" in words(page)) == (majority is None)


def test_the_page_and_the_json_are_written(tmp_path):
    findings = audit(finding(["ä.png"]), notice="Synthetic.")
    path = write(epath.Path(tmp_path), findings, noise)
    assert str(path) == str(tmp_path / "audit" / "index.html")
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == findings
    assert path.read_text() == render(findings, noise)
    assert sorted(file.name for file in (tmp_path / "audit").iterdir()) == ["audit.json", "index.html"]
    text = words(path.read_text())
    assert text.index("Synthetic.") < text.index("Verdict")


def test_the_audit_of_another_source_is_not_overwritten(tmp_path):
    """Two folders may have the same name, and so the same default workdir."""
    workdir = epath.Path(tmp_path)
    refuse_other_source(workdir, "/data/chests")
    write(workdir, audit(), noise)
    refuse_other_source(workdir, "/data/chests")
    with pytest.raises(UserError, match="is the audit of /data/chests: choose another --workdir"):
        refuse_other_source(workdir, "/other/chests")
