"""Write a tree like CheXpert's small release: its CSVs, folders, composition and sizes, with drawn images.

  python -m studies.chexpert_like FOLDER [--images=224316] [--processes=2]

Labels, views, age and sex are drawn with the shares that Irvin et al. give for train (2019, Table 1; a study's labels
are those of all its images). Each image is the mean of two of a few hundred phantoms, mirrored or not, plus a coarse
random pattern of its own, so that no two are copies. All of CheXpert's images take 3.6 GB, and some minutes on 2 cores.
"""

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pneumojax.data.sources import phantom
from pneumojax.runtime.errors import UserError
from studies import study

RELEASE = "CheXpert-v1.0-small"
VALID, ALL = 234, 224_316  # images; what is not valid is train here
_WIDTH, _HEIGHT, _QUALITY = 390, 320, 75
_PHANTOMS = 200  # of each class, drawn once a process
_PATTERN = (16, 16), 25.0  # places and standard deviation of an image's own pattern, in grey levels
_STUDIES = 187_641  # of train, in the paper's table
# Finding -> the studies of train where it is present, and where it is uncertain. "No Finding" excludes the others.
_NO_FINDING = 16_627
_FINDINGS = {
    "Enlarged Cardiomediastinum": (9_020, 10_148),
    "Cardiomegaly": (23_002, 6_597),
    "Lung Opacity": (92_669, 4_341),
    "Lung Lesion": (6_856, 1_071),
    "Edema": (48_905, 11_571),
    "Consolidation": (12_730, 23_976),
    "Pneumonia": (4_576, 15_658),
    "Atelectasis": (29_333, 29_377),
    "Pneumothorax": (17_313, 2_663),
    "Pleural Effusion": (75_696, 9_419),
    "Pleural Other": (2_441, 1_771),
    "Fracture": (7_270, 484),
    "Support Devices": (105_831, 898),
}
_HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *_FINDINGS]
_STUDIES_A_PATIENT = 2.9
_LATERAL = 0.19  # of studies
_AP = 0.846  # of frontal images
_MALE = 0.594


class Film(NamedTuple):
    """An image to be drawn: its row in the CSV, and the number that its drawing depends on."""

    row: list[str]
    number: int


def films(split: str, first: int, count: int) -> Iterator[Film]:
    """Yield the images of a split, patient by patient; `first` is the number of its first image and patient."""
    rng = np.random.default_rng([first, count])
    endless = (row for patient in range(first, first + count) for row in _patient(rng, split, patient))
    return (Film(row, first + place) for place, row in enumerate(islice(endless, count)))


def _patient(rng: np.random.Generator, split: str, patient: int) -> Iterator[list[str]]:
    sex, age = ("Male" if rng.random() < _MALE else "Female"), str(int(np.clip(rng.normal(60, 18), 18, 90)))
    for number in range(1, 1 + rng.geometric(1 / _STUDIES_A_PATIENT)):
        findings = _labels(rng)
        views = ["frontal", "lateral"] if rng.random() < _LATERAL else ["frontal"]
        for view, name in enumerate(views, 1):
            path = f"{RELEASE}/{split}/patient{patient:05d}/study{number}/view{view}_{name}.jpg"
            projection = ("AP" if rng.random() < _AP else "PA") if name == "frontal" else ""
            yield [path, sex, age, name.capitalize(), projection, *findings]


def _labels(rng: np.random.Generator) -> list[str]:
    """Return the values of "No Finding" and of the findings, as the CSVs write them."""
    if rng.random() < _NO_FINDING / _STUDIES:
        return ["1.0", *[""] * len(_FINDINGS)]
    others = _STUDIES - _NO_FINDING
    values = [
        "1.0" if at < present / others else "-1.0" if at < (present + uncertain) / others else ""
        for at, (present, uncertain) in zip(rng.random(len(_FINDINGS)), _FINDINGS.values(), strict=True)
    ]
    return ["", *values]


@cache
def _phantom(label: int, place: int) -> np.ndarray:
    image, _ = phantom.render(7, 2 * place + label, label, _WIDTH)
    return np.asarray(Image.fromarray(image).resize((_WIDTH, _HEIGHT)), np.uint16)


def picture(film: Film) -> bytes:
    """Return the JPEG of an image."""
    rng = np.random.default_rng(film.number)
    label = int(film.row[_HEADER.index("No Finding")] != "1.0")
    one, other = (_phantom(label, int(place)) for place in rng.choice(_PHANTOMS, 2, replace=False))
    mean = ((one + other[:, :: rng.choice([-1, 1])]) // 2)[:, :: rng.choice([-1, 1])]
    places, deviation = _PATTERN
    pattern = Image.fromarray(rng.normal(0, deviation, places).astype(np.float32))
    shown = mean + np.asarray(pattern.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR))
    file = io.BytesIO()
    Image.fromarray(shown.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _save(folder: Path, some: list[Film]) -> None:
    for film in some:
        path = folder / film.row[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(film))


def generate(folder: Path, images: int, processes: int) -> Path:
    """Write the tree into a folder, and return the tree; `images` counts those of train and valid.

    Raises:
      UserError: there is one already, or there are too few images.
    """
    tree = folder / RELEASE
    if tree.exists():
        raise UserError(f"{tree} exists: delete it, or give another folder")
    if images < 10:
        raise UserError(f"{images} images are too few: give 10 or more")
    valid = min(VALID, images // 5)
    splits = {"valid": list(films("valid", 1, valid)), "train": list(films("train", valid + 1, images - valid))}
    tree.mkdir(parents=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for some in splits.values():
            parts = [some[start : start + 500] for start in range(0, len(some), 500)]
            for _ in pool.map(_save, [folder] * len(parts), parts):
                pass
    for split, some in splits.items():
        with (tree / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_HEADER, *(film.row for film in some)])
    return tree


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("folder", type=Path, help="where the tree is written")
    parser.add_argument("--images", type=int, default=ALL, help="of train and valid")
    parser.add_argument("--processes", type=int, default=2, help="that draw")
    given = parser.parse_args(argv)
    print(generate(given.folder, given.images, given.processes))


if __name__ == "__main__":
    study.run(main)
