"""The frame and the parts that pages share."""

import base64
import io

import jinja2
import numpy as np
import pytest
from page_outline import HOSTILE, Outline
from PIL import Image

from pneumojax.reports import html_page
from pneumojax.reports.experiment_tables import Table


def experiment(**changes):
    table = Table("Models", "A & B.", ("name", "<value>"), [("a & b", "1 < 2")])
    values = {"title": "Experiment", "facts": "", "notice": None, "split": "val", "tables": [table]}
    return html_page.render("experiment_report.html.jinja", **values | {"curves": [], "confusions": {}} | changes)


def test_every_value_is_escaped():
    page = experiment()
    assert '<th scope="row">a &amp; b</th><td>1 &lt; 2</td>' in page
    assert '<th scope="col">&lt;value&gt;</th>' in page
    page = experiment(title=HOSTILE, facts=HOSTILE, notice=HOSTILE, split=HOSTILE)
    assert "script" not in Outline(page).tags
    assert page.count("&lt;script&gt;alert(") == 5, "the title is also the heading"


def test_a_page_without_a_script_allows_none():
    assert "script-src" not in experiment()


def test_a_template_value_that_is_missing_is_an_error():
    """An empty place on a page would go unnoticed."""
    with pytest.raises(jinja2.UndefinedError, match="title"):
        html_page.render("experiment_report.html.jinja", facts="")


@pytest.mark.parametrize(("shape", "scaled"), [((300, 150), (48, 96)), ((40, 20), (20, 40)), ((192, 192, 3), (96, 96))])
def test_images_are_scaled_down_and_never_up(shape, scaled):
    data = html_page.jpeg(np.zeros(shape, np.uint8), 96).removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == scaled


def test_a_page_printed_on_a_terminal_commands_nothing():
    """Names of files may hold escape sequences."""
    page = experiment(title="a\x1b[31m\x9b\r\nb")
    assert "a\\x1b[31m\\x9b\r\nb".replace("\r", "\\r") in page
    assert not set(page) & {"\x1b", "\x9b", "\r"}
