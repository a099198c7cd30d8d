"""From what folders and tables say to a label: 1 for pneumonia, 0 for normal."""

import math
import re

# Rule -> the finding that it reads, and its value -> label; an image with another value is left out. `abnormal` is the
# rule of Huynh et al., the others are those of Irvin et al. for uncertain findings.
RULES = {
    "abnormal": ("No Finding", {1: 0, 0: 1, -1: 1}),
    "pneumonia-ones": ("Pneumonia", {1: 1, 0: 0, -1: 1}),
    "pneumonia-zeros": ("Pneumonia", {1: 1, 0: 0, -1: 0}),
    "pneumonia-ignore": ("Pneumonia", {1: 1, 0: 0}),
}
VIEWS = ("all", "frontal")

CLASS_NAMES = {"normal": 0, "healthy": 0, "pneumonia": 1}
CLASS_NAMES |= dict.fromkeys(("bacteria", "bacterial", "bacterial pneumonia", "virus", "viral", "viral pneumonia"), 1)
LABELS = {"0": 0, "1": 1, **CLASS_NAMES, "negative": 0, "positive": 1, "false": 0, "true": 1}
LABELS |= {"no": 0, "yes": 1, "n": 0, "y": 1}


def class_of(name: str) -> int | None:
    """Return the label of a folder by its name; None if it names no class."""
    return CLASS_NAMES.get(_plain(name))


def label_of(text: str) -> int | None:
    """Return the label that a word or a number such as "1.0" means; None if it means none."""
    number = _number(text)
    return LABELS.get(_plain(text)) if math.isnan(number) else {0.0: 0, 1.0: 1}.get(number)


def finding_of(text: str) -> int | None:
    """Return 1 if a finding is present, 0 if absent or blank, -1 if uncertain; None if the text means neither."""
    if text.strip().lower() in ("", "nan"):
        return 0
    return -1 if _number(text) == -1 else label_of(text)


def is_frontal(view: str) -> bool:
    """Return whether a view is frontal, as tables name it: PA, AP, "AP Supine", "Frontal"."""
    return view.strip().lower().startswith(("pa", "ap", "frontal"))


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
