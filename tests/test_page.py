"""Parts that pages share."""

import html
import json
import re

import numpy as np

from pneumojax import page


def test_the_slider_knows_the_confusion_at_every_stop():
    labels, chances = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.5, 0.3, 0.5, 0.9])
    shown = page.confusion_at_any("val", labels, chances, 0.42)
    counts = json.loads(html.unescape(re.search(r'data-counts="([^"]*)"', shown)[1]))
    assert (counts["n0"], counts["n1"]) == (2, 3)
    for stop, fp, tp in zip(range(page.STOPS + 1), counts["fp"], counts["tp"], strict=True):
        called = chances >= stop / page.STOPS - 1e-9
        assert (fp, tp) == (np.sum(called & (labels == 0)), np.sum(called & (labels == 1)))


def test_a_table_is_of_escaped_text():
    shown = page.table(["name", "<value>"], [["a & b", "1 < 2"]], "label")
    assert '<th scope="row">a &amp; b</th><td>1 &lt; 2</td>' in shown
    assert '<th scope="col">&lt;value&gt;</th>' in shown
