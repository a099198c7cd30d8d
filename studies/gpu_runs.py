"""Whole trainings on the GPU, by the command line: the steps of gpu.py that run `python -m pneumojax.main`."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from etils import epath

from pneumojax.runtime import run_log
from pneumojax.runtime.workdir import CHECKPOINTS, CONFIG, EVALUATION, METRICS, NEIGHBOURS
from studies.gpu_given import NO_TIME, PHANTOM, Given, Row, read_rows

STOPPING_S = 12.0  # seconds in which a run that is asked to stop has saved its state
LOOK_S = 0.01  # from one look for a checkpoint to the next


def children(given: Given) -> Iterator[Row]:
    """Yield the row of M1's training by the recommended recipe."""
    yield from whole(given, "m1", given.data, given.sizes.children)


def paper(given: Given) -> Iterator[Row]:
    """Yield the row of M1's training by the paper's recipe, if there seems to be time for it."""
    before = read_rows(given.folder, "children")
    needed = estimate(before[0], given.sizes.paper_epochs) if before else None
    if needed and needed > given.left():
        yield named("m1:paper", given.data) | {
            "reason": f"{NO_TIME}: it needs about {needed:.0f} s, and {max(given.left(), 0):.0f} s were left"
        }
    else:
        yield from whole(given, "m1:paper", given.data, given.sizes.paper)


def named(spec: str, data: str) -> Row:
    """Return the fields of a run's row that say which run it is."""
    return {"run": spec, "data": "phantoms" if data == PHANTOM else "children"}


def estimate(row: Row, epochs: int) -> float | None:
    """Return the seconds that as many epochs take, given the row of a whole run; None where it tells nothing.

    What is not training (start, evaluation, report) is taken twice: some of it comes with each epoch.
    """
    if "reason" in row:
        return None
    epoch = row["images"] / row["images_per_s"]
    return 2 * max(row["seconds"] - row["epochs"] * epoch, 0) + epochs * epoch


def whole(given: Given, spec: str, data: str, fields: Sequence[str]) -> Iterator[Row]:
    """Train, evaluate and report; where the time is over, stop, and yield what there is.

    Raises:
      RuntimeError: the run failed.
    """
    name = spec.replace(":", "-")
    started = time.perf_counter()
    process = start(given, spec, data, name, fields)
    status = ended(process, given.left() - STOPPING_S)
    row = named(spec, data) | {"seconds": time.perf_counter() - started} | left(given.folder / name)
    if status is None:
        yield row | {"reason": f"{NO_TIME}: stopped after {row['epochs']} epochs"}
    elif status == 0:
        yield row
    else:
        reason = last_line(given.folder / f"{name}.txt", status)
        yield row | {"reason": reason}
        raise failed(given.folder / f"{name}.txt", reason)


def start(given: Given, spec: str, data: str, name: str, fields: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a training in the folder's workdir `name`; what it prints goes to NAME.txt there."""
    places = [f"--workdir={given.folder / name}", f"--config.data.cache_dir={given.folder / 'cache'}"]
    overrides = [f"--config.{field}" for field in fields]
    with (given.folder / f"{name}.txt").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "pneumojax.main", f"--config={spec}", f"--data={data}", *places, *overrides],
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip


def ended(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit status; None where the process had to be stopped after some seconds."""
    try:
        return process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOPPING_S - 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def failed(printed: Path, reason: str) -> RuntimeError:
    """Return the error of a run that failed, after repeating the end of what it had printed."""
    print(printed.read_text(errors="replace")[-3000:])
    return RuntimeError(reason)


def last_line(path: Path, status: int) -> str:
    """Return the last line that a process has printed, with its exit status."""
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return f"status {status}: {lines[-1].strip() if lines else 'it printed nothing'}"


def left(workdir: Path) -> Row:
    """Return what a run's files tell, also where it was stopped.

    Returns:
      `epochs` (that have ended), `images` (in an epoch), `images_per_s` (median over epochs after the first, which
      compiles), `val_auc` (after the last epoch); and of the split it is judged by: `split`, `n`, `auc`,
      `balanced_accuracy`.
    """
    row: Row = dict.fromkeys(("images", "images_per_s", "val_auc", "split", "n", "auc", "balanced_accuracy"))
    history = run_log.read(epath.Path(workdir))
    trained = history.get("train", {})
    row["epochs"] = len(trained)
    if trained:
        last = max(trained)
        batch = json.loads((workdir / CONFIG).read_text())["batch_size"]
        row["images"] = trained[last]["step"] // last * batch
        speeds = [line["images_per_second"] for epoch, line in trained.items() if epoch > 1 or last == 1]
        row["images_per_s"] = statistics.median(speeds)
        row["val_auc"] = history.get("val", {}).get(last, {}).get("auc")
    for split in ("test", "val"):
        path = workdir / EVALUATION / f"{split}.json"
        if path.exists():
            evaluation = json.loads(path.read_text())
            return row | {"split": split} | {name: evaluation[name] for name in ("n", "auc", "balanced_accuracy")}
    return row


def resume(given: Given) -> Iterator[Row]:
    """Yield a row on whether a run that was killed and resumed has the bits of one that was not.

    Raises:
      RuntimeError: a run failed.
    """
    fields = (*given.sizes.resume, "deterministic=true")
    row: Row = dict.fromkeys(("steps", "killed_after", "state", "metrics", "evaluation", "val_auc"))
    started = time.perf_counter()
    for name in ("undisturbed", "killed", "killed"):
        process = start(given, "m1", PHANTOM, name, fields)
        if name == "killed" and row["killed_after"] is None:
            row["killed_after"] = killed_after_saving(process, given.folder / name, given.left())
            if row["killed_after"] is None:
                yield row | {"reason": "the run had ended before it could be killed, or saved nothing in time"}
                return
            continue
        status = ended(process, given.left() - STOPPING_S)
        if status != 0:
            printed = given.folder / f"{name}.txt"
            reason = NO_TIME if status is None else last_line(printed, status)
            yield row | {"reason": reason}
            if status is None:
                return
            raise failed(printed, reason)
    first, second = (given.folder / name for name in ("undisturbed", "killed"))
    one, other = states(first, second)
    row |= {"steps": one["step"], "state": one == other, "metrics": metrics(first) == metrics(second)}
    row |= {"evaluation": evaluated(first) == evaluated(second), "val_auc": left(first)["val_auc"]}
    yield row | {"seconds": time.perf_counter() - started}


def killed_after_saving(process: subprocess.Popen[bytes], workdir: Path, seconds: float) -> int | None:
    """Kill a training as soon as it has saved a state; return that state's step, None if there was nothing to kill."""
    end = time.monotonic() + seconds - STOPPING_S
    saved: list[int] = []
    while process.poll() is None and not saved and time.monotonic() < end:
        saved = [int(path.name) for path in (workdir / CHECKPOINTS).glob("*") if path.name.isdecimal()]
        time.sleep(LOOK_S)
    running = process.poll() is None
    process.kill()
    process.wait()
    return min(saved) if saved and running else None


def states(*workdirs: Path) -> list[Row]:
    """Return step and digest of the last state that each run has saved, read by a process on the CPU."""
    command = [sys.executable, "-m", "studies.gpu_state", *map(str, workdirs)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the states cannot be read: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def metrics(workdir: Path) -> list[Row]:
    """Return the metrics lines without speeds."""
    lines = [json.loads(line) for line in (workdir / METRICS).read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def evaluated(workdir: Path) -> list[bytes]:
    """Return the files that the evaluation at the end has written."""
    return [path.read_bytes() for path in [*sorted((workdir / EVALUATION).glob("*")), workdir / NEIGHBOURS]]
