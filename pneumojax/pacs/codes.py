"""The coded concepts of a report: those of the standards where there is one, and our own for the rest."""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

OWN = "99PNEUMOJAX"  # DICOM PS3.3 asks for 99 before a private scheme's name


def scheme() -> CodingSchemeIdentificationItem:
    """Return what identifies our own coding scheme."""
    return CodingSchemeIdentificationItem(designator=OWN, name="PneumoJAX", responsible_organization="PneumoJAX")


def _own(value: str, meaning: str) -> Code:
    return Code(value, OWN, meaning)


PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
PRESENT = Code("52101004", "SCT", "Present")
ABSENT = Code("2667000", "SCT", "Absent")
CHEST_FILM = Code("399208008", "SCT", "Plain chest X-ray")
PROBABILITY = Code("122157", "DCM", "Probability")
COMMENT = Code("121106", "DCM", "Comment")
NO_UNITS = Code("1", "UCUM", "no units")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")

THRESHOLD = _own("threshold", "Threshold of best balanced accuracy")
THRESHOLD_SENS95 = _own("threshold_sens95", "Threshold of at least 95 % sensitivity")
DECISION = _own("decision", "Pneumonia at the threshold of best balanced accuracy")
DECISION_SENS95 = _own("decision_at_sens95", "Pneumonia at the threshold of at least 95 % sensitivity")
OOD_SCORE = _own("ood_score", "Out-of-distribution score")
CAUTION = _own("flag", "Reason not to rely on the prediction")
NO_DECISION = _own("no_decision", "No decision is given")

# The flags of `--mode=predict`, in words for a reader.
_FLAGS = {
    "size": "the film's size is unusual",
    "colour": "the film is in color",
    "constant": "the film is uniform",
    "dark": "the film is dark",
    "clipped": "some pixels lie far outside the range of all others",
    "inverted": "the film looks inverted",
    "unlike_training": "the film is unlike the training images",
    "in_training": "the film was among the training images",
}


def words_of(flag: str) -> str:
    """Return a flag in words."""
    return _FLAGS.get(flag, flag)


def of_flag(flag: str) -> Code:
    """Return the concept of a flag."""
    return _own(flag, words_of(flag).capitalize())
