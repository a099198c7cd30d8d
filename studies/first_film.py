"""Measure how long Python takes from its start to the first prediction of a film.

  python -m studies.first_film --film=FILM [--model=m1] [--rounds=5]

Each time a fresh process imports pneumojax, loads the model and predicts the film, with nothing compiled yet or with
all compiled before. Seconds from the start of the process to each of its steps. The command line predicts it too, all
compiled before: seconds from its start to its end.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumojax.runtime.host import cores
from studies import study

STEPS = ("import", "load", "predict")
# A process's own start, as the kernel has it, counts the interpreter's start too.
_PROGRAM = """
import json, os, sys, time
started = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
since = lambda: time.clock_gettime(time.CLOCK_BOOTTIME) - started
import pneumojax
found = {"import": since()}
model = pneumojax.load(sys.argv[1])
found["load"] = since()
row = model.predict(sys.argv[2])
found["predict"] = since()
if row.error:
    sys.exit(row.error)
print(json.dumps(found))
"""


def seconds(cache: Path, model: str, film: Path) -> dict[str, float]:
    """Return the seconds from the start of a process to the end of each of its `STEPS`."""
    return json.loads(_output(["-c", _PROGRAM, model, str(film)], cache, film))


def by_command(cache: Path, model: str, film: Path) -> dict[str, float]:
    """Return the seconds from the start to the end of a command that predicts the film."""
    rows = f"--config.prediction.output={cache.with_name('rows.csv')}"
    started = time.perf_counter()
    _output(["-m", "pneumojax.main", "--mode=predict", f"--model={model}", f"--data={film}", rows], cache, film)
    return {"predict": time.perf_counter() - started}


def _output(arguments: Sequence[str], cache: Path, film: Path) -> str:
    # Only compiled programs go to `cache`: the CPU kernels lie in the user's cache folder.
    places = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([sys.executable, *arguments], env=os.environ | places, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{film} was not predicted: {done.stderr.strip()}")
    return done.stdout


def measure(scratch: Path, rounds: int, model: str, film: Path) -> list[dict[str, Any]]:
    """Return the table's rows: with nothing compiled yet, with all compiled before, and by the command line."""
    cold, warm, commands = [], [], []
    for _ in range(rounds):
        shutil.rmtree(scratch, ignore_errors=True)
        cold.append(seconds(scratch, model, film))
        warm.append(seconds(scratch, model, film))
        by_command(scratch, model, film)  # compiles what else it needs
        commands.append(by_command(scratch, model, film))
    return [
        _row("nothing compiled yet", cold),
        _row("compiled before", warm),
        _row("`--mode=predict`, compiled before", commands),
    ]


def _row(what: str, starts: Sequence[dict[str, float]]) -> dict[str, Any]:
    steps = {step: study.spread(start[step] for start in starts) if step in starts[0] else None for step in STEPS}
    return {"what": what, "cores": cores(), "starts": len(starts)} | steps


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--film", type=Path, required=True, help="an image file")
    parser.add_argument("--model", default="m1", help="what pneumojax.load takes")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = {"rows": measure(Path(folder) / "cache", given.rounds, given.model, given.film)}
    study.finish("first_film", argv, figures, ["first-film"], given.output)


if __name__ == "__main__":
    study.run(main)
