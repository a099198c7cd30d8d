"""What tests look for in a page: its tags, its words, its tables."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "wbr", "link", "input", "hr", "source", "col"}
HOSTILE = '<script>alert("x")</script>&'


class Outline(HTMLParser):
    """Collect tags, ids and attributes; fail if an end tag does not close the innermost open element."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def require_self_contained(page):
    """Require well-formed HTML that loads nothing from outside the page."""
    outline = Outline(page)
    assert {"link", "iframe", "object"}.isdisjoint(outline.tags)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert all(value.startswith("data:image/") for name, value in outline.attributes if name in ("src", "srcset"))
    assert all(value.startswith("#") for name, value in outline.attributes if name.endswith("href"))
    assert "default-src 'none'" in page
    assert len(outline.ids) == len(set(outline.ids))
    return outline


def words(page):
    """The page's text, without the style sheet."""
    return " ".join(re.sub(r"<[^>]+>", " ", page.rpartition("</style>")[2]).split())


def section(page, title):
    """The HTML of the section with this heading."""
    return page.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def row(page, name):
    """The words of each cell, for each table row with this name."""
    rows = re.findall(rf'<tr[^>]*><th scope="row">{name}</th>(.*?)</tr>', page, re.DOTALL)
    return [
        [re.sub(r"<[^>]+>", " ", cell).split() for cell in re.findall("<td>(.*?)</td>", r, re.DOTALL)] for r in rows
    ]
