"""Measure how time and memory of each stage grow with the number of images, up to CheXpert's.

  python -m studies.size FOLDER [--counts=22000,74000,224316] [--stages=...]

FOLDER is where `studies.chexpert_like` writes a tree for each number, and where runs go: 6 GB for all of CheXpert's
images. Trees that are there are used again. Labels are by the rule "abnormal", of all views. Each stage is a command of
its own, whose memory is that of all of its processes. "beam" prepares again, by Apache Beam on this machine.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from pneumojax.runtime import workdir as workdirs
from studies import chexpert_like, commands, study

_BEAM = ["runner=DirectRunner", "options=--direct_running_mode=multi_processing --direct_num_workers=2"]
STAGES = {
    "audit": ["--mode=audit"],
    "prepare": ["--mode=prepare", "--config=m1"],
    "train": ["--config=m1", "--config.epochs=1"],
    "evaluate": ["--mode=evaluate"],
    "explain": ["--mode=explain"],
    "predict": ["--mode=predict", "--model=m1"],
    "beam": ["--mode=prepare", "--config=m1", *(f"--config.data.beam_{setting}" for setting in _BEAM)],
}
_EVERY_S = 1.0  # between looks at the memory


def measured(folder: Path, images: int, stages: list[str]) -> list[dict[str, Any]]:
    """Return a row for each stage at a number of images."""
    tree = folder / str(images) / chexpert_like.RELEASE
    if not tree.exists():
        chexpert_like.generate(tree.parent, images, processes=2)
    run, caches = tree.parent / "run", tree.parent / "caches"
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(caches, ignore_errors=True)
    rows = []
    for stage in stages:
        cache = caches / ("beam" if stage == "beam" else "own")
        command = [sys.executable, "-m", "pneumojax.main", *STAGES[stage], f"--config.data.cache_dir={cache}"]
        command += [f"--workdir={run}"] * (stage not in ("prepare", "beam"))
        command += [f"--data={tree}"] * (stage not in ("evaluate", "explain"))
        started = time.perf_counter()
        _, looks = commands.watched(command, _EVERY_S, statuses=(0, 1))
        seconds = time.perf_counter() - started
        memory = {"memory_gb": max(look.total for look in looks) / 1e9, "own_gb": max(look.own for look in looks) / 1e9}
        rows.append({"stage": stage, "images": images, "seconds": seconds} | memory)
        print(rows[-1], flush=True)
    return rows


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("folder", type=Path, help="where trees and runs go")
    parser.add_argument("--counts", type=study.numbers, default=[22_000, 74_000, chexpert_like.ALL], help="of images")
    parser.add_argument("--stages", type=study.names, default=list(STAGES), help="in this order")
    given = parser.parse_args(argv)
    rows = [row for count in given.counts for row in measured(given.folder, count, given.stages)]
    for stage in given.stages:
        study.add_exponents([row for row in rows if row["stage"] == stage])
    places = {count: given.folder / str(count) / "run" for count in given.counts}
    report = Path("report") / "index.html"
    files = {"report": report, "neighbours": Path(workdirs.NEIGHBOURS), "splits": Path(workdirs.SPLITS)}
    sizes = [
        {"images": count, **{f"{name}_mb": (run / path).stat().st_size / 1e6 for name, path in files.items()}}
        for count, run in places.items()
        if (run / report).exists()
    ]
    study.finish("size", argv, {"rows": rows, "sizes": sizes}, ["size", "size-files"], given.output)


if __name__ == "__main__":
    study.run(main)
