"""Check and measure PneumoJAX on an NVIDIA GPU, in eight minutes.

  python -m studies.gpu [--data=FOLDER] [--seconds=480] [--steps=rates,peers] [--output=FILE.json]

Each step is a process of its own, with a limit of time. A step that fails or is too slow has a row with the reason, and
the others follow. The result is written after each step. With --steps, figures of other steps that the output file has
of the same card are kept. The exit status is 1 where a step failed, or a computation differs by more than its bound.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pneumojax.runtime import host
from pneumojax.runtime.errors import UserError, one_line
from pneumojax.runtime.wording import counted
from studies import gpu_tables, study
from studies.gpu_given import NO_TIME, PHANTOM, Row, read_rows, value_of
from studies.gpu_steps import STEPS

LEAST_S = 15.0  # seconds without which a step is not started
DONE, FAILED, SLOW, SKIPPED = "done", "failed", "too slow", "skipped"
FEED = ("tensorflow", "array-record", "importlib-resources")  # what the tf.data feed alone needs


def missing_packages(pyproject: Path = study.ROOT / "pyproject.toml") -> list[str]:
    """List the packages that PneumoJAX needs and that are not installed; what only the feed needs does not count."""
    needed = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    names = [re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0] for requirement in needed]
    return [name for name in names if not name.startswith(FEED) and not _installed(name)]


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def granted(limit: float, left: float) -> float:
    """Return the seconds that a step gets, of its limit and what is left of all; 0 where it is not worth starting."""
    return min(limit, left) if left >= LEAST_S else 0.0


def environment() -> dict[str, str]:
    """Return the environment of a step: one GPU, and the CPU beside it."""
    platforms = [name for name in os.environ.get("JAX_PLATFORMS", "").split(",") if name]
    path = os.pathsep.join(filter(None, (str(study.ROOT), os.environ.get("PYTHONPATH"))))
    found = dict(os.environ) | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    found.setdefault("CUDA_VISIBLE_DEVICES", "0")
    if platforms:
        found["JAX_PLATFORMS"] = ",".join(dict.fromkeys((*platforms, "cpu")))
    return found


def run_step(command: Sequence[str], log: Path, seconds: float) -> Row:
    """Run a step's command for at most some seconds, with all that it starts. Return `outcome`, `seconds`, `reason`."""
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=study.ROOT, env=environment(),
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with all that it has started
            process.wait()
    return judged(status, log, seconds) | {"seconds": time.monotonic() - started}


def judged(status: int | None, log: Path, seconds: float) -> Row:
    """Return the `outcome` and the `reason` of a step that ended with a status; None where it had to be killed."""
    if status == 0:
        return {"outcome": DONE, "reason": None}
    if status is None:
        return {"outcome": SLOW, "reason": f"killed after {seconds:.0f} s; what it had measured is kept"}
    lines = log.read_text(errors="replace").strip().splitlines()
    return {"outcome": FAILED, "reason": one_line(f"status {status}: {lines[-1] if lines else 'nothing was printed'}")}


def merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Add the figures of steps that were measured earlier on the same card, and are not among those of now."""
    device = value_of(now.get("card", []), "device")
    if not before or value_of(before.get("card", []), "device") != device:
        return dict(now)
    steps = {row["step"]: row for row in (*before.get("steps", []), *now["steps"])}
    return {**before, **now, "steps": [steps[name] for name in STEPS if name in steps]}


def has_failed(figures: Mapping[str, Any]) -> bool:
    """Return whether a step failed, or a computation on the GPU did, or differs by more than its bound."""
    rows = figures.get("correctness", [])
    wrong = any(row.get("holds") is False or row.get("reason", NO_TIME) != NO_TIME for row in rows)
    return wrong or any(row["outcome"] == FAILED for row in figures["steps"])


def described(figures: Mapping[str, Any]) -> str:
    """Name the machine: its processor, and its GPU as the step `card` found it."""
    card = figures.get("card", [])
    driver = f", driver {version}" if (version := value_of(card, "driver")) else ""
    return f"{study.machine(host.describe())}; GPU: {value_of(card, 'device') or 'none'}{driver}"


class Study:
    """The steps that were run so far, and where their figures go."""

    def __init__(
        self, argv: Sequence[str], output: Path | None, seconds: float, before: Mapping[str, Any], patience: float = 1.0
    ) -> None:
        """Start the clock. Each step's limit is multiplied by `patience`."""
        self._argv, self._output, self._before = argv, output, before
        self._start = time.monotonic()
        self._seconds, self._patience = seconds, patience
        self._now: dict[str, Any] = {"budget_s": seconds, "steps": []}

    @property
    def figures(self) -> dict[str, Any]:
        """All figures, with those of an earlier study."""
        return merged(self._before, self._now)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._seconds - (time.monotonic() - self._start)

    def take(self, name: str, folder: Path, arguments: Sequence[str]) -> None:
        """Run a step, keep its rows, and write the result."""
        seconds = granted(self._patience * STEPS[name].limit, self.left())
        if seconds:
            module = [sys.executable, "-m", "studies.gpu_steps", name, f"--folder={folder}", f"--seconds={seconds}"]
            row = run_step([*module, *arguments], folder / f"{name}.log", seconds)
        else:
            row = {"outcome": SKIPPED, "reason": NO_TIME, "seconds": 0.0}
        rows = read_rows(folder, name)
        self._now["steps"].append({"step": name, "summary": STEPS[name].summary, "rows": len(rows)} | row)
        if rows:
            self._now[name] = rows
        self._now["took_s"] = time.monotonic() - self._start
        if row["outcome"] == FAILED:
            print((folder / f"{name}.log").read_text(errors="replace")[-4000:], file=sys.stderr)
        reason = f": {row['reason']}" if row["reason"] else ""
        print(f"{name}: {row['outcome']} in {row['seconds']:.0f} s, {counted(len(rows), 'row')}{reason}", flush=True)
        if self._output:
            study.write(
                self._output, study.result("gpu", self._argv, self.figures) | {"machine": described(self.figures)}
            )


def _parser() -> ArgumentParser:
    parser = study.parser(__doc__)
    parser.add_argument("--data", default=PHANTOM, metavar="FOLDER", help="children's radiographs in class folders")
    parser.add_argument("--seconds", type=float, default=480.0, help="that all steps may take")
    listed = "; ".join(f"{name}: {step.summary}" for name, step in STEPS.items())
    parser.add_argument("--steps", type=study.names, default=list(STEPS), help=f"to run, beside card: {listed}")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, also without a GPU: to test this study")
    return parser


def _before(output: Path | None) -> dict[str, Any]:
    """Return the figures that the output file has from an earlier study."""
    if output is None or not output.exists():
        return {}
    return study.read(output.stem, output.parent)["figures"]


def main(argv: list[str]) -> None:
    """Run the study.

    Raises:
      UserError: packages or the data are missing, or JAX finds no GPU.
    """
    parser = _parser()
    given = parser.parse_args(argv)
    if unknown := set(given.steps) - STEPS.keys():
        parser.error(f"--steps has no {', '.join(sorted(unknown))}: choose of {', '.join(STEPS)}")
    if missing := missing_packages():
        raise UserError(f"packages are missing: pip install --no-deps {' '.join(missing)}")
    if given.data != PHANTOM and not Path(given.data).exists():
        raise UserError(f"no such data: {given.data!r}: give the folder of the children's radiographs, or no --data")
    data = given.data if given.data == PHANTOM else str(Path(given.data).absolute())
    arguments = [f"--data={data}", *(["--tiny"] if given.tiny else [])]
    chosen = [name for name in STEPS if name in given.steps and name != "card"]
    before = _before(given.output) if len(chosen) < len(STEPS) - 1 else {}
    patience = 5.0 if given.tiny else 1.0  # a CPU may be slow
    taken = Study(argv, given.output, given.seconds, before, patience)
    with tempfile.TemporaryDirectory() as folder:
        taken.take("card", Path(folder), arguments)
        platform = value_of(taken.figures.get("card", []), "platform")
        if platform != "gpu" and not given.tiny:
            raise UserError(
                f"JAX finds no GPU (it computes on: {platform}): install jax[cuda13], and look at nvidia-smi"
            )
        for name in chosen:
            taken.take(name, Path(folder), arguments)
    study.finish("gpu", argv, taken.figures, gpu_tables.shown(taken.figures), None)
    print(gpu_tables.advice(taken.figures), flush=True)
    if has_failed(taken.figures):
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no step is left behind
    study.run(main)
