"""Measure how often the guard flags films that it should let through, and images that it should not.

  python -m studies.guard RUN --children FOLDER --adults FOLDER [--photographs FOLDER] [--others FOLDER] --output FILE

RUN is the workdir of a model of children alone, evaluated by this version. Films of its val are held out from training,
but its limit is fitted on them: so they are divided in halves by patient, again and again, and the limit fitted on one
half is measured on the other. FOLDERs of photographs and of other images have image files of any kind anywhere below;
without them, those that scikit-learn, matplotlib and pydicom bring are used.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from PIL import Image

from pneumojax.data import data_settings
from pneumojax.data.decode import images
from pneumojax.data.decode.images import resize
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.source import Split, from_source
from pneumojax.data.sources import open_source, phantom
from pneumojax.evaluation import corruptions, film_statistics, forward, guard, metrics, neighbours
from pneumojax.inference.restore import load
from pneumojax.models.architectures import HEAD_UNITS
from pneumojax.runtime import allocator, sharding
from pneumojax.workflows import run_folder
from pneumojax.workflows.run_config import read_config
from studies import study

CROPS = 200  # of photographs
HALVES = 40  # times that val is divided
PARTS = {"features alone": (0,), "statistics alone": (1, 2, 3), "both": (0, 1, 2, 3)}
UPRIGHT = {"turned by 90 degrees": 1, "upside down": 2, "turned by 270 degrees": 3}

Pictures = np.ndarray  # (n, size, size) uint8


class Measured(NamedTuple):
    """What the guard sees of images: features, statistics, and the parts of the score, (n, parts)."""

    features: np.ndarray
    statistics: np.ndarray
    parts: np.ndarray


class Guarded(NamedTuple):
    """A run's model with what measures images by it."""

    training: neighbours.Index
    size: int
    evaluator: forward.Evaluator
    variables: Any
    layout: sharding.Layout

    def measure(self, pictures: Pictures) -> Measured:
        """Compute features, statistics, and the parts of the score without limits."""
        split = Split("images", np.arange(len(pictures)).astype(str), np.zeros(len(pictures), np.uint8),
                      lambda indices: pictures[indices][..., None])  # fmt: skip
        with jax.set_mesh(self.layout.mesh):
            features = self.evaluator.outputs(self.variables, split).features
        found = film_statistics.of(pictures)
        return Measured(features, found, np.stack(guard.parts_of(self.training, features, found), 1))


def guarded(workdir: epath.Path) -> Guarded:
    """Load the run's model, and its index, which must have a guard."""
    config, layout = read_config(workdir), sharding.layout(jax.local_devices())
    with jax.set_mesh(layout.mesh):
        trained = load(workdir, config, layout)
    evaluator = forward.Evaluator(trained.model, layout, config.evaluation.batch_size)
    index = neighbours.read(workdir, HEAD_UNITS)
    return Guarded(index, config.model.image_size, evaluator, trained.variables, layout)


def own(workdir: epath.Path, folder: Path, name: str, size: int) -> tuple[Pictures, np.ndarray]:
    """Return the images of the run's own split, from class folders, and the patients."""
    config = read_config(workdir)
    source = open_source(str(folder), data_settings.source_options(config))
    records = run_folder.own_splits(workdir, source)[name]
    split = from_source(source, name, records, size)
    return split.read(np.arange(len(records)))[..., 0], np.array([record.patient for record in records])


def every(folder: Path, size: int) -> Pictures:
    """Return all images below a folder that has labels."""
    source = open_source(str(folder))
    return from_source(source, "all", source.records, size).read(np.arange(len(source.records)))[..., 0]


def photographs(folder: Path | None) -> list[Image.Image]:
    """Return photographs: of a folder, or those of scikit-learn and matplotlib."""
    if folder is None:
        import matplotlib
        import sklearn.datasets

        places = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
        places += sorted((Path(matplotlib.get_data_path()) / "sample_data").glob("*.jpg"))
    else:
        places = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [Image.open(path).convert("L") for path in places]


def crops(pictures: Sequence[Image.Image], size: int, count: int = CROPS, seed: int = 0) -> Pictures:
    """Return as many squares of photographs, each at a random place and of a random size, and all of them whole."""
    rng = np.random.default_rng(seed)
    found = [resize(picture, size) for picture in pictures]
    while len(found) < count:
        picture = pictures[int(rng.integers(len(pictures)))]
        side = rng.uniform(0.4, 1.0) * min(picture.size)
        left, top = rng.uniform(0, [picture.width - side, picture.height - side])
        found.append(resize(picture, size, (left, top, left + side, top + side)))
    return np.stack(found)


def others(folder: Path | None, size: int) -> Pictures:
    """Return images of other parts of the body, by other devices: of a folder, or of pydicom and matplotlib."""
    found = []
    if folder is None:
        import matplotlib
        import pydicom.data

        root = Path(pydicom.data.__file__).parent / "test_files"
        packed = Path(matplotlib.get_data_path()) / "sample_data" / "s1045.ima.gz"
        scan = np.frombuffer(gzip.decompress(packed.read_bytes()), np.uint16).reshape(256, 256)
        found.append(resize(Image.fromarray((scan / scan.max() * 255).astype(np.uint8)), size))
    else:
        root = folder
    for path in sorted(root.rglob("*")):
        if path.is_file():
            try:
                found.append(images.look(path, size).square)
            except (UnreadableImage, ValueError, zlib.error):
                continue
    distinct = {each.tobytes(): each for each in found if np.ptp(each) > 0}
    return np.stack(list(distinct.values()))


def held_out(val: Measured, patients: np.ndarray, halves: int = HALVES) -> dict[str, list[float]]:
    """Return the share of val that is flagged by a limit from the other half's patients, by which parts count."""
    rng = np.random.default_rng(0)
    names = np.unique(patients)
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(halves):
        first = np.isin(patients, rng.permutation(names)[: len(names) // 2])
        for name, counted in PARTS.items():
            limits = guard.limits_of(val.parts[first], counted)
            found[name].append(float((score(val.parts[~first], limits) > 1).mean()))
    return found


def score(parts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the score in units of its limit."""
    return (parts / limits).max(1)


def sets(options: Any, model: Guarded, val: Pictures) -> Iterator[tuple[str, str, Pictures]]:
    """Yield the name of each kind of images, whether it should be flagged, and the images."""
    size = model.size
    yield "adults of another hospital", "yes", every(options.adults, size)
    yield "phantoms", "yes", np.stack([phantom.render(11, n, n % 2, size)[0] for n in range(200)])
    yield "crops of photographs", "yes", crops(photographs(options.photographs), size)
    yield "inverted", "yes", 255 - val
    for name, turns in UPRIGHT.items():
        yield name, "yes", np.rot90(val, turns, (1, 2)).copy()
    yield "other parts of the body, other devices", "yes", others(options.others, size)
    yield "noise", "yes", np.random.default_rng(0).integers(0, 256, (200, size, size), np.uint8)
    yield "mirrored", "", val[:, :, ::-1].copy()
    for name, change in corruptions.CORRUPTIONS.items():
        changed = [change(image, np.random.default_rng(n)) for n, image in enumerate(val)]
        yield f"corrupted: {name}", "", np.stack(changed)


def row(name: str, flag: str, measured: Measured, val: Measured) -> dict[str, Any]:
    """Return the share of images that is flagged, by which parts count, and how well the score ranks them above val."""
    found: dict[str, Any] = {"images": name, "flag": flag, "count": len(measured.parts)}
    for key, counted in PARTS.items():
        limits = guard.limits_of(val.parts, counted)
        found[key.replace(" ", "_")] = float((score(measured.parts, limits) > 1).mean())
    labels = np.repeat([1, 0], [len(measured.parts), len(val.parts)])
    limits = guard.limits_of(val.parts)
    scores = [score(each.parts, limits) for each in (measured, val)]
    return found | {"auc": metrics.auc(labels, np.concatenate(scores))}


def figures(options: Any) -> Mapping[str, Any]:
    """Measure everything."""
    workdir = epath.Path(options.run)
    model = guarded(workdir)
    pictures, patients = own(workdir, options.children, "val", model.size)
    val = model.measure(pictures)
    shares = held_out(val, patients)
    first: dict[str, Any] = {"images": "held-out children", "flag": "no", "count": len(pictures), "auc": None}
    first |= {key.replace(" ", "_"): float(np.mean(values)) for key, values in shares.items()}
    rows = [first]
    rows += [row(name, flag, model.measure(each), val) for name, flag, each in sets(options, model, pictures)]
    worst = {name.replace(" ", "_"): float(np.quantile(values, 0.95)) for name, values in shares.items()}
    return {"rows": rows, "held_out_95": worst, "halves": HALVES}


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("run", help="workdir of a model of children alone, evaluated by this version")
    parser.add_argument("--children", type=Path, required=True, help="the run's own class folders")
    parser.add_argument("--adults", type=Path, required=True, help="films of adults")
    parser.add_argument("--photographs", type=Path, help="photographs; by default those that packages bring")
    parser.add_argument("--others", type=Path, help="other images; by default those that packages bring")
    allocator.keep_freed()
    options = parser.parse_args(argv)
    study.finish("guard", argv, figures(options), ["guard"], options.output)


if __name__ == "__main__":
    study.run(main)
