"""The audit's page: one safe, self-contained file that shows each finding, and stays small."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from etils import epath

from pneumojax.data import audit_page
from pneumojax.data.audit_page import MAX_GROUPS, MAX_PER_GROUP, MAX_PICTURES, render, write

HOSTILE = '<script>alert("x")</script>&.png'
NOISE = np.random.default_rng(0).integers(0, 256, (150, 150), dtype=np.uint8)


def finding(ids, kind="inverted", severity="warning", notes=None):
    count, short = len(ids), f"{len(ids)} of {kind}"
    found = {"kind": kind, "severity": severity, "count": count, "images": count, "short": short, "what": "So it is."}
    return found | {"ids": ids, "notes": notes or {}}


def audit(*findings, **changes):
    splits = {
        "train": {"n": 5216, "normal": 1341, "pneumonia": 3875, "majority_accuracy": 3875 / 5216},
        "test": {"n": 9, "normal": 5, "pneumonia": 4, "majority_accuracy": 5 / 9},
    }
    found = {"source": "chests", "location": "/data/chests", "notice": None, "splits": splits}
    return found | {"findings": list(findings)} | changes


class Tags(HTMLParser):
    """The tags of a page; fails where one is closed that is not the open one."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.sources = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def told(page):
    """The page's words, without its style."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]).split())


def test_a_clean_audit_says_so_first():
    page = render(audit(), lambda id: NOISE)
    assert 'class="verdict better"' in page
    words = told(page)
    assert words.index("Clean.") < words.index("Composition")
    assert "Audit: 5,225 images; nothing found." in words
    assert "train 5,216 1,341 3,875 0.743 always answering pneumonia" in words
    assert "test 9 5 4 0.556 always answering normal" in words


def test_findings_are_counted_told_and_shown():
    page = render(
        audit(
            finding([["a.png", "b.png"]], "identical_across_splits", "error", notes={"b.png": "test, normal"}),
            finding(["c.png", "d.png"]),
            finding(["e.png"], "colour"),
        ),
        lambda id: None if id == "d.png" else NOISE,
    )
    words = told(page)
    assert "1 error, 2 warnings." in words and 'class="verdict"' in page
    assert page.count("<img") == 4
    for name in ("a.png", "b.png test, normal", "c.png", "no picture d.png", "e.png"):
        assert name in words
    assert words.index("1 of identical_across_splits") < words.index("2 of inverted") < words.index("1 of colour")
    assert words.count("So it is.") == 3


def test_the_page_needs_nothing_else_and_is_well_formed():
    page = render(audit(finding(["a.png"]), finding([["a", "b"]] * 30), finding([])), lambda id: NOISE)
    tags = Tags(page)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tags.tags)
    assert tags.sources and all(source.startswith("data:image/") for source in tags.sources)
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|@import|url\(", page)


def test_foreign_text_is_escaped():
    found = [finding([HOSTILE], notes={HOSTILE: HOSTILE}), finding([[HOSTILE, "b"]], notes={"b": HOSTILE})]
    page = render(audit(*found, source=HOSTILE, location=HOSTILE, notice=HOSTILE), lambda id: NOISE)
    assert "script" not in Tags(page).tags
    assert page.count("&lt;script&gt;alert(") >= 10


def test_many_findings_stay_a_small_page_that_tells_how_many_more():
    many = [str(i) for i in range(1000)]
    groups = [many[i : i + 10] for i in range(0, 1000, 10)]
    page = render(audit(*(finding(many if i % 2 else groups) for i in range(14))), lambda id: NOISE)
    assert len(page.encode()) <= 5_000_000
    shown = MAX_PICTURES // MAX_PER_GROUP
    assert page.count("<img") == 7 * (MAX_GROUPS + shown * MAX_PER_GROUP)
    assert told(page).count(f"And {1000 - MAX_GROUPS} more: audit.json lists all.") == 7
    assert told(page).count(f"And {100 - shown} more: audit.json lists all.") == 7
    assert told(page).count("And 4 more in this group.") == 7 * shown


def test_pairs_fill_the_page_up_to_as_many_groups():
    pairs = [[f"{i}a", f"{i}b"] for i in range(MAX_GROUPS)]
    page = render(audit(finding(pairs)), lambda id: NOISE)
    assert page.count('class="group"') == MAX_GROUPS and "more" not in told(page)


@pytest.mark.parametrize("majority", [None, 0.5])
def test_splits_without_labels_have_no_baseline(majority):
    split = {"n": 3, "normal": 0, "pneumonia": 0, "majority_accuracy": majority}
    page = render(audit(splits={"all": split}), lambda id: NOISE)
    assert ("no labels" in told(page)) == (majority is None)


def test_both_files_are_written(tmp_path):
    found = audit(finding(["ä.png"]), notice="Synthetic.")
    path = write(epath.Path(tmp_path), found, lambda id: NOISE)
    assert str(path) == str(tmp_path / "audit" / "index.html")
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == found
    assert path.read_text() == render(found, lambda id: NOISE)
    assert sorted(file.name for file in (tmp_path / "audit").iterdir()) == ["audit.json", "index.html"]
    assert told(path.read_text()).index("Synthetic.") < told(path.read_text()).index("Verdict")
    assert audit_page.SIDE == 96
