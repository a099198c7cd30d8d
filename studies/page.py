"""Measure the page of a model in browsers: how it agrees with the model, how long it takes, how much memory it needs.

  python -m studies.page --data=FOLDER [--model=m1] [--browsers=chrome,firefox] [--count=200]

FOLDER has `kermany_224`, `adults_224`, `kermany_fullsize` and `dicom`, each with films anywhere below; what is missing
is left out. Each group is given to a page that was just opened. Memory is that of all processes of the browser, before
films and after `count` of them. Needs Node and what `make test-page` installs.
"""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

import pneumojax
from pneumojax.export.try_page import page
from pneumojax.inference import bundle
from pneumojax.runtime.errors import UserError
from studies import browsers, study

GROUPS = {
    "kermany_224": "children, 224 px, JPEG",
    "adults_224": "adults, 224 px, JPEG",
    "kermany_fullsize": "children, full size, JPEG",
    "dicom": "adults, 1024 px, DICOM",
}
MOST = 48  # films of a group
_SUFFIXES = {".jpeg", ".jpg", ".png", ".dcm"}


def films(folder: Path, most: int) -> list[Path]:
    """List films, evenly from all in a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    chosen = np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)
    return [paths[place] for place in chosen]


def agreement(model: pneumojax.Model, paths: Sequence[Path], found: Sequence[browsers.Finding]) -> dict[str, Any]:
    """Return the largest differences between the page and the model.

    `logit` is at equal squares, relative where the logit is beyond 1; `probability` and `turned` are those of
    `--mode=predict` on the same files; `map` is at equal squares, relative to the map's largest value.
    """
    logits, probabilities, maps, turned = [], [], [], 0
    for path, one in zip(paths, found, strict=True):
        right = model.predict(path)
        logit = float(model.logits(one.square[None, ..., None].astype(np.float32) / 255)[0])
        right_map = model.explain(one.square).values
        logits.append(abs(one.logit - logit) / max(1, abs(logit)))
        probabilities.append(abs(float(one.row["probability"]) - (right.probability or 0)))
        maps.append(np.abs(one.map - right_map).max() / np.abs(right_map).max())
        turned += one.row["decision"] != right.decision
    largest = {"logit": max(logits), "probability": max(probabilities), "map": float(max(maps))}
    return {"films": len(paths), **largest, "turned": turned}


def groups(model: pneumojax.Model, browser: str, built: Path, data: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each group of films that there is."""
    for folder, what in GROUPS.items():
        paths = films(data / folder, MOST)
        if not paths:
            continue
        with browsers.copied(paths) as copies:
            asked = {"films": [str(path) for path in copies]}
            seen = browsers.drive(browser, built, batches=asked)["batches"]["films"]
        first, *others = seen["films"]
        times = {"first_ms": first, "film_ms": statistics.median(others), "ready_s": seen["ready"][0] / 1000}
        yield {"browser": browser, "what": what} | agreement(model, paths, browsers.findings(seen)) | times


def memory(browser: str, built: Path, paths: Sequence[Path], count: int) -> dict[str, Any]:
    """Return what the browser holds before films and after `count` of them, and how long each film took."""
    with browsers.copied(list(islice(cycle(paths), count))) as copies:
        asked = {"films": [str(path) for path in copies]}
        found = browsers.drive(browser, built, batches=asked)
    seen = found["batches"]["films"]
    held = [size / 1e6 for size in seen["memory"]]
    times = {"ready_s": seen["ready"][0] / 1000, "film_ms": statistics.median(seen["films"])}
    requests = [url for url in seen["requests"] if not url.startswith(("file:", "blob:", "data:"))]
    sizes = {"before_mb": held[0], "after_mb": held[-1], "peak_mb": max(held)}
    return {"browser": found["version"], "films": count, **times, **sizes, "requests": len(requests)}


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder with folders of films")
    parser.add_argument("--model", default="m1", help="a shipped model")
    parser.add_argument("--browsers", type=study.names, default=list(browsers.EXECUTABLES), help="chrome, firefox")
    parser.add_argument("--count", type=int, default=200, help="films after which memory is measured")
    given = parser.parse_args(argv)
    if reason := browsers.missing():
        raise UserError(f"{reason} is missing")
    small = films(given.data / "kermany_224", given.count)
    if not small:
        raise UserError(f"no films in {given.data / 'kermany_224'}: give another --data")
    model, folder = pneumojax.load(given.model), bundle.shipped()[given.model]
    with tempfile.TemporaryDirectory() as scratch:
        built = Path(scratch) / "try.html"
        built.write_bytes(page(bundle.read(folder), (folder / "README.md").read_text()).content)
        rows = [row for browser in given.browsers for row in groups(model, browser, built, given.data)]
        held = [memory(browser, built, small, given.count) for browser in given.browsers]
        figures = {"page_mb": built.stat().st_size / 1e6, "rows": rows, "memory": held}
    study.finish("page", argv, figures, ["page", "page-memory"], given.output)


if __name__ == "__main__":
    study.run(main)
