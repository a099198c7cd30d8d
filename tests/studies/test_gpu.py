"""The study of a GPU keeps its time, leaves what it has measured whatever happens, and shows what the figures say.

The whole study runs at tiny sizes on a CPU, so that on its day it does not fail for a reason that has nothing to do
with the GPU.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import ROOT

from pneumojax.benchmark.tasks import COPY, FED, INFER, MATMUL, RESIDENT, TRAIN
from pneumojax.runtime.errors import UserError
from studies import gpu, gpu_correctness, gpu_runs, gpu_speed, gpu_tables, render, study, tables
from studies.gpu_correctness import BOUNDS, FORWARD, GRADIENT, MOVED, difference, verdict
from studies.gpu_given import PHANTOM, TINY, WHOLE, Given, read_rows, rows_path
from studies.gpu_steps import STEPS

CARD = [{"what": "platform", "value": "gpu"}, {"what": "device", "value": "H100"}]


def given(folder: Path, left: float = 1e6) -> Given:
    return Given(folder, PHANTOM, WHOLE, time.monotonic() + left)


def test_a_step_gets_its_limit_or_what_is_left() -> None:
    assert gpu.granted(60, 400) == 60
    assert gpu.granted(60, 42) == 42
    assert gpu.granted(60, gpu.LEAST_S - 1) == 0  # too little to start JAX
    assert gpu.granted(60, -3) == 0


def test_a_step_that_fails_has_the_last_line_that_it_printed(tmp_path: Path) -> None:
    program = "import sys; print('compiling'); sys.exit('no memory | none\\x1b')"
    row = gpu.run_step([sys.executable, "-c", program], tmp_path / "log", 60)
    assert (row["outcome"], row["reason"]) == (gpu.FAILED, "status 1: no memory | none\\x1b")
    assert gpu.run_step([sys.executable, "-c", "pass"], tmp_path / "log", 60)["outcome"] == gpu.DONE


def test_a_step_that_is_too_slow_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    """A worker that went on would take the GPU from the next step."""
    program = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    row = gpu.run_step([sys.executable, "-c", program], tmp_path / "log", 2)
    assert row["outcome"] == gpu.SLOW
    assert "killed after 2 s" in row["reason"]
    pid = int((tmp_path / "log").read_text())
    for _ in range(100):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    pytest.fail("the child lives")


def test_rows_of_a_killed_step_are_kept(tmp_path: Path) -> None:
    """All but the one that it was writing."""
    rows_path(tmp_path, "rates").write_text('{"what": 1}\n{"what": 2}\n{"wha')
    assert read_rows(tmp_path, "rates") == [{"what": 1}, {"what": 2}]
    assert read_rows(tmp_path, "peers") == []


def test_the_result_is_written_after_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails, or for which no time is left, has a row, and changes nothing of the others."""
    outcomes = {
        "card": {"outcome": gpu.DONE, "reason": None},
        "rates": {"outcome": gpu.SLOW, "reason": "killed"},
        "resume": {"outcome": gpu.FAILED, "reason": "status 1: boom"},
    }

    def run_step(command: list[str], log: Path, seconds: float) -> dict:
        name = command[3]
        log.write_text("boom\n")
        if name != "resume":
            rows_path(tmp_path, name).write_text("".join(f"{json.dumps(row)}\n" for row in CARD))
        return outcomes[name] | {"seconds": 1.0}

    monkeypatch.setattr(gpu, "run_step", run_step)
    output = tmp_path / "gpu.json"
    taken = gpu.Study(["--tiny"], output, 480, {})
    for name in outcomes:
        taken.take(name, tmp_path, [])
        assert study.read("gpu", tmp_path)["figures"]["steps"][-1]["step"] == name
    late = gpu.Study([], output, 1, study.read("gpu", tmp_path)["figures"] | {"card": []})
    late.take("peers", tmp_path, [])
    found = study.read("gpu", tmp_path)
    assert found["machine"].endswith("GPU: none")  # `late` did not look
    figures = found["figures"]
    assert figures["rates"] == CARD
    assert "resume" not in figures
    assert [(row["step"], row["outcome"]) for row in figures["steps"]] == [
        ("card", gpu.DONE), ("rates", gpu.SLOW), ("resume", gpu.FAILED), ("peers", gpu.SKIPPED),
    ]  # fmt: skip
    assert gpu.has_failed(figures)
    assert "| resume " in tables.render("gpu-steps", figures)


def test_earlier_figures_are_kept_of_the_same_card_only() -> None:
    before = {"card": CARD, "rates": [1], "peers": [2], "steps": [{"step": "rates"}, {"step": "peers"}]}
    now = {"card": CARD, "peers": [3], "steps": [{"step": "card"}, {"step": "peers", "outcome": "done"}]}
    found = gpu.merged(before, now)
    assert (found["rates"], found["peers"]) == ([1], [3])
    assert found["steps"] == [{"step": "card"}, {"step": "rates"}, {"step": "peers", "outcome": "done"}]
    other = [{"what": "device", "value": "T4"}]
    assert gpu.merged(before, now | {"card": other}) == now | {"card": other}


def test_a_step_sees_one_gpu_and_the_cpu_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = gpu.environment()
    assert (found["JAX_PLATFORMS"], found["CUDA_VISIBLE_DEVICES"]) == ("cuda,cpu", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7")
    monkeypatch.delenv("JAX_PLATFORMS")
    found = gpu.environment()
    assert ("JAX_PLATFORMS" in found, found["CUDA_VISIBLE_DEVICES"]) == (False, "GPU-7")
    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)


def test_packages_that_are_missing_are_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only the feed needs is not missed."""
    needed = ["numpy>=2.0", "no-such-package[more]>=1; sys_platform == 'linux'", "tensorflow-cpu>=2.20"]
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(needed)}\n")
    assert gpu.missing_packages(tmp_path / "pyproject.toml") == ["no-such-package"]
    assert gpu.missing_packages() == []
    monkeypatch.setattr(gpu, "missing_packages", lambda: ["a", "b"])
    with pytest.raises(UserError, match="packages are missing: pip install --no-deps a b"):
        gpu.main([])


def test_mistakes_are_found_before_anything_is_measured(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match="no such data: 'nowhere'"):
        gpu.main(["--data=nowhere"])
    with pytest.raises(UserError, match="JAX finds no GPU"):
        gpu.main(["--seconds=1"])  # no step is started
    with pytest.raises(SystemExit):
        gpu.main(["--steps=sleeping"])
    assert "--steps has no sleeping: choose of card, correctness" in capsys.readouterr().err


def test_a_difference_is_that_of_norms() -> None:
    """(3, 4) and (3, 5) differ by 1; 1 / sqrt(34). What is not a number must not pass for equal."""
    assert difference([np.array([3.0]), np.array([4.0])], [np.array([3.0]), np.array([5.0])]) == pytest.approx(34**-0.5)
    assert difference(np.zeros(3), np.zeros(3)) == 0
    assert difference(np.array([np.nan]), np.array([1.0])) == math.inf


def test_a_gradient_may_differ_where_a_maximum_has_moved_but_not_everywhere() -> None:
    bound = BOUNDS["float32"][GRADIENT]
    assert verdict(GRADIENT, "float32", [bound / 2, MOVED / 2])["holds"]
    assert not verdict(GRADIENT, "float32", [bound * 2, bound * 3])["holds"]
    assert not verdict(GRADIENT, "float32", [bound / 2, MOVED * 2])["holds"]
    assert not verdict(FORWARD, "float32", [bound / 2, bound * 2])["holds"]
    assert verdict(GRADIENT, "bfloat16", [0.3, 0.4])["holds"]
    assert not verdict(FORWARD, "bfloat16", [math.inf])["holds"]


def test_everything_is_compared(tmp_path: Path) -> None:
    """Training and evaluation of each model in each precision; M1's by the plain block too."""
    subjects = list(gpu_correctness.subjects(given(tmp_path)))
    assert {(subject.step, subject.model) for subject in subjects} >= {
        (step, model) for step in ("train", "eval", "grad-cam", "integrated-gradients") for model in ("m1", "m2", "m3")
    }
    for subject in subjects:
        ways = list(gpu_correctness.ways(subject, given(tmp_path)))
        precisions = {way.precision for way in ways}
        assert precisions == (set(WHOLE.precisions) if subject.step in ("train", "eval") else {"float32"})
        plain = subject.model == "m1" and subject.step in ("train", "eval")
        assert (gpu_correctness.REFERENCE in ways) == plain


def test_the_study_fails_where_a_computation_is_wrong_or_impossible() -> None:
    """Not where time was short: what is missing can be measured later."""
    steps = [{"step": "correctness", "outcome": gpu.DONE}]
    right, late = {"holds": True}, {"holds": None, "reason": "no time was left"}
    assert not gpu.has_failed({"steps": steps, "correctness": [right, late]})
    assert gpu.has_failed({"steps": steps, "correctness": [right, {"holds": False}]})
    assert gpu.has_failed({"steps": steps, "correctness": [right, {"reason": "RuntimeError: no algorithm"}]})
    assert not gpu.has_failed({"steps": [*steps, {"step": "rates", "outcome": gpu.SLOW}]})


def test_a_computation_without_time_or_with_an_error_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(gpu_correctness.correctness(given(tmp_path, left=0)))
    assert {row["reason"] for row in rows} == {"no time was left"}
    assert len(tables.render("gpu-correctness", {"correctness": rows}).splitlines()) == len(rows) + 2

    def broken(*_: object) -> None:
        raise RuntimeError("INTERNAL: no algorithm\nworked")

    monkeypatch.setattr(gpu_correctness, "computed", broken)
    rows = list(gpu_correctness.correctness(given(tmp_path)))
    assert {row["reason"] for row in rows} == {"RuntimeError: INTERNAL: no algorithm"}


def test_rates_are_measured_at_every_batch_and_precision(tmp_path: Path) -> None:
    tasks = list(gpu_speed.rate_tasks(given(tmp_path)))
    assert [task.mode for task in tasks[:4]] == [MATMUL, MATMUL, MATMUL, COPY]
    for mode in (TRAIN, INFER, RESIDENT):
        found = {(task.batch_size, task.precision) for task in tasks if task.mode == mode}
        assert found == {(batch, name) for batch in (32, 256, 1024, 4096) for name in ("float32", "tf32", "bfloat16")}
    assert {task.batch_size for task in tasks if task.mode == FED} == {32, 256, 1024, 4096}


def test_the_faster_block_by_hand() -> None:
    """Plain takes 2 and 0.7 times as long: 1.18 in the geometric mean, so the fused one is faster."""

    def row(mode: str, ratio: float) -> dict:
        sides = {"fused": {"images_per_s": 100.0, "way": ""}, "plain": {"images_per_s": 100 / ratio, "way": ""}}
        spread = {"median": ratio, "min": ratio, "max": ratio}
        named = {"model": "m1", "mode": mode, "precision": "tf32", "batch_size": 256}
        return named | {"sides": sides, "ratios": {"plain": spread}}

    without = {"model": "m3", "mode": TRAIN, "precision": "tf32", "batch_size": 256, "reason": "no time was left"}
    figures = {"blocks": [row(TRAIN, 2.0), row(TRAIN, 0.7), row(INFER, 0.9), without]}
    assert gpu_tables.better(figures) == {TRAIN: True, INFER: False}
    assert gpu_tables.advice(figures).endswith("ON_GPU = Fused(train=True, infer=False)")
    assert "not measured" in gpu_tables.advice({"blocks": [row(TRAIN, 2.0)]})
    shown = tables.render("gpu-blocks", figures)
    assert "2.00 (2.00-2.00)" in shown
    assert "no time was left" in shown


def test_shares_of_what_the_card_reaches_by_hand() -> None:
    task = {"model": "m1", "batch_size": 256, "image_size": 150}
    step = {"median": 0.002, "p10": 0.0019, "p90": 0.0021}
    measured = {"images_per_s": 128000.0, "tflops": 150.0, "gb_s": 1500.0, "compile_s": 5.0, "step_s": step}
    rows = [
        task | {"mode": MATMUL, "precision": "bfloat16", "tflops": 600.0, "size": 8192},
        task | {"mode": COPY, "precision": "float32", "gb_s": 3000.0, "size": 2**30},
        task | {"mode": TRAIN, "precision": "bfloat16"} | measured,
        task | {"mode": TRAIN, "precision": "tf32"} | measured,
        task | {"mode": FED, "precision": "bfloat16", "reason": "not installed | sorry"},
    ]
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in tables.render("gpu-rates", {"rates": rows}).splitlines()[2:]
    ]
    assert table[0][3:] == ["bfloat16", "5.0", "2.0 (1.9-2.1)", "128000", "150.0", "0.25", "1500", "0.50", ""]
    assert (table[1][8], table[1][10]) == ("", "0.50")  # no product was measured in that precision
    assert table[2][-1] == "not installed / sorry"
    assert "8,192" in tables.render("gpu-peaks", {"rates": rows})


def test_the_time_of_the_papers_run_is_estimated_by_hand() -> None:
    """20 epochs of 4 s in a run of 100 s: twice the other 20 s, and 100 epochs of 4 s."""
    row = {"images": 4000, "images_per_s": 1000.0, "epochs": 20, "seconds": 100.0}
    assert gpu_runs.estimate(row, 100) == pytest.approx(440)
    assert gpu_runs.estimate(row | {"reason": "stopped"}, 100) is None


def test_the_papers_run_is_not_started_without_time(tmp_path: Path) -> None:
    row = {"images": 4000, "images_per_s": 1000.0, "epochs": 20, "seconds": 100.0}
    rows_path(tmp_path, "children").write_text(json.dumps(row) + "\n")
    [found] = gpu_runs.paper(given(tmp_path, left=100))
    assert "it needs about 440 s" in found["reason"]
    assert "m1:paper" in tables.render("gpu-runs", {"paper": [found]})


def test_a_run_that_fails_or_is_stopped_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """It is stopped as a scheduler does, so that its state is saved, and what it has written is shown."""
    failing = "import sys; print('preparing'); sys.exit(2)"
    waiting = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)"
    statuses = []

    def start(given: Given, spec: str, data: str, name: str, fields: tuple) -> subprocess.Popen[bytes]:
        with (given.folder / f"{name}.txt").open("wb") as out:
            process = subprocess.Popen([sys.executable, "-c", failing if data == PHANTOM else waiting], stdout=out)
        statuses.append(process)
        return process

    monkeypatch.setattr(gpu_runs, "start", start)
    rows = gpu_runs.children(given(tmp_path))
    row = next(rows)
    assert (row["epochs"], row["reason"]) == (0, "status 2: preparing")
    with pytest.raises(RuntimeError, match="status 2: preparing"):  # the step failed, too
        next(rows)
    assert capsys.readouterr().out == "preparing\n\n"
    workdir = tmp_path / "m1"
    workdir.mkdir()
    (workdir / "config.json").write_text('{"batch_size": 16}')
    lines = [
        {"step": 10 * epoch, "epoch": epoch, "split": split, "images_per_second": 100.0 * epoch, "auc": 0.9}
        for epoch in (1, 2, 3)
        for split in ("train", "val")
    ]
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    left = gpu_runs.STOPPING_S + 1.5
    [row] = gpu_runs.children(given(tmp_path, left)._replace(data="elsewhere"))
    assert row["reason"] == "no time was left: stopped after 3 epochs"
    assert statuses[-1].returncode == 75
    assert (row["images"], row["images_per_s"], row["val_auc"]) == (160, 250.0, 0.9)  # the first epoch compiles
    assert "stopped after 3 epochs" in tables.render("gpu-runs", {"children": [row]})


@pytest.mark.slow
def test_the_whole_study_at_tiny_sizes(tmp_path: Path) -> None:
    """Without TensorFlow and CPU kernels, as on a GPU. Every step ends by itself, and every table has rows."""
    hidden = ("tensorflow", "tensorflow_datasets", "array_record")
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules |= dict.fromkeys({hidden})")
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "studies.gpu", "--tiny", "--seconds=1500", f"--output={output}"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PNEUMOJAX_KERNELS": "off"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = study.read("gpu", tmp_path)["figures"]
    assert {row["step"]: row["outcome"] for row in figures["steps"]} == dict.fromkeys(STEPS, gpu.DONE)
    assert all(row["holds"] for row in figures["correctness"])
    assert all("reason" not in row for row in [*figures["blocks"], *figures["determinism"]])
    fed = [row for row in figures["rates"] if row["mode"] == FED]
    assert all("not installed" in row["reason"] for row in fed)
    assert all("reason" not in row for row in figures["rates"] if row["mode"] != FED)
    if importlib.util.find_spec("torch") is None:
        assert {row["reason"] for row in figures["peers"]} == {"PyTorch is not installed"}
    [resumed] = figures["resume"]
    assert (resumed["state"], resumed["metrics"], resumed["evaluation"]) == (True, True, True)
    assert 0 < resumed["killed_after"] <= resumed["steps"]
    [children], [paper] = figures["children"], figures["paper"]
    assert (children["epochs"], paper["epochs"], children["n"]) == (1, 2, 400)
    page = (ROOT / "docs" / "benchmarks" / "accelerators.md").read_text()
    rendered = render.rendered(page, tmp_path)
    assert "make gpu` measures it" not in rendered
    assert set(gpu_tables.shown(figures)) == set(gpu_tables.GPU)
    assert TINY.models == ("m1",)
