"""A job of several processes, over loopback: as one process would do it; stopped, bereaved, or waiting in vain."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from conftest import JOB, ROOT, pneumojax
from etils import epath
from scipy.special import logit
from test_kill import restored

from pneumojax import processes
from pneumojax.errors import UserError

LIMIT_S = 120


def start(folder: Path, count: int, data: Path, *more: str) -> subprocess.Popen:
    """launch/local.py with `count` processes."""
    return subprocess.Popen(
        [sys.executable, ROOT / "launch" / "local.py", str(count), *JOB, f"--data={data}", *more], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(folder: Path, count: int, data: Path, *more: str) -> str:
    process = start(folder, count, data, *more)
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told
    return told


def once_saved(folder: Path, count: int, data: Path) -> tuple[subprocess.Popen, list[int]]:
    """A job under way that has saved within its first epoch, and the ids of its processes."""
    job = start(folder, count, data)
    while not once_saved_in(folder):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)
    return job, list(map(int, Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()))


def once_saved_in(folder: Path) -> bool:
    return any(path.name.isdecimal() for path in (folder / "work" / "checkpoints").glob("*"))


class Left(NamedTuple):
    """What a finished run leaves: metrics lines without speeds, images, the logit of each, Adam's mean of gradients."""

    lines: list[dict]
    images: list[tuple]
    logits: np.ndarray
    gradients: np.ndarray


def left(folder: Path) -> Left:
    lines = [json.loads(line) for line in (folder / "work" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    rows = []
    for path in sorted((folder / "work" / "evaluation").glob("*.csv")):
        told = json.loads(path.with_suffix(".json").read_text())
        with path.open() as file:
            for row in csv.DictReader(file):
                value = (logit(float(row["probability"])) - told["offset"]) * told["temperature"]
                rows.append((path.stem, row["id"], row["label"], value))
    latest, _ = restored(epath.Path(folder / "work"))
    gradients = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(latest.state.opt_state[0].mu)])
    return Left(lines, [row[:-1] for row in rows], np.array([row[-1] for row in rows]), gradients)


def assert_alike(found, expected):
    """To float32's tolerance; which steps, epochs, splits and images, and how many right answers: exactly.

    At the paper's learning rate: from rounding in a gradient that is none, Adam makes a whole step.
    """
    assert found.images == expected.images
    for line, as_line in zip(found.lines, expected.lines, strict=True):
        assert line.pop("bce") == pytest.approx(as_line["bce"], abs=1e-5)
        assert line.pop("auc") == pytest.approx(as_line["auc"], abs=0.01)  # of two nearly equal logits, either is more
        assert line == {name: as_line[name] for name in line}
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)
    assert np.linalg.norm(found.gradients - expected.gradients) < 1e-3 * np.linalg.norm(expected.gradients)


linux = pytest.mark.skipif(not Path("/proc").exists(), reason="finds a job's processes below /proc")


@linux
def test_a_job_of_two_stopped_by_a_signal_to_one_ends_on_one_as_if_it_had_always_been_there(chests, tmp_path, alone):
    job, (_, second) = once_saved(tmp_path, 2, chests)
    os.kill(second, signal.SIGTERM)
    told, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 75, told
    result = pneumojax(*JOB, f"--data={chests}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Resuming within epoch" in result.stdout
    assert_alike(left(tmp_path), left(alone))


@linux
@pytest.mark.skipif("KILLS" not in os.environ, reason="takes minutes: make soak runs it")
def test_a_job_of_two_of_which_one_dies_ends_on_four(chests, tmp_path, alone):
    job, (_, second) = once_saved(tmp_path, 2, chests)
    os.kill(second, signal.SIGKILL)
    told, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 128 + signal.SIGKILL, told
    assert "pneumojax: another process of the job has ended" in told
    assert "Traceback" not in told
    told = finish(tmp_path, 4, chests)
    assert "Resuming within epoch" in told
    assert told.count("Resuming") == told.count("Report:") == 1, "the first process alone prints"
    assert_alike(left(tmp_path), left(alone))

    # Each process predicts its own part of the images.
    finish(tmp_path, 2, chests / "test", "--mode=predict")
    parts = sorted((tmp_path / "work" / "predictions").glob("*.csv"))
    assert [path.name for path in parts] == ["test-00000-of-00002.csv", "test-00001-of-00002.csv"]
    rows = [line for path in parts for line in path.read_text().splitlines()[1:]]
    assert len(rows) == len({row.partition(",")[0] for row in rows}) == 40


def test_a_mistake_ends_all_of_a_job(chests, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("not a run")
    job = start(tmp_path, 2, chests)
    told, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 2, told
    assert "is not empty and holds no run" in told
    assert os.listdir(tmp_path / "work") == ["thesis.txt"]


def test_a_coordinator_that_never_answers_is_not_waited_for_forever(chests, tmp_path):
    job = ("--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--join_seconds=3")
    result = pneumojax(*JOB, f"--data={chests}", *job, cwd=tmp_path)
    assert result.returncode == 76, "no mistake of this process: the same command may do"
    (line,) = result.stderr.strip().splitlines()
    assert "did not come within 3 s as process 1 of 2, coordinator 127.0.0.1:9" in line
    assert not (tmp_path / "work").exists()


def test_while_it_waits_for_the_others_a_signal_stops_it(chests, tmp_path):
    job = ("--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--join_seconds=100")
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumojax.main", *JOB, f"--data={chests}", *job], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(6)  # in which it has come to wait, or is just about to
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 75, complaint
    assert complaint == "pneumojax: interrupted: run the same command again to go on\n"


def test_where_jax_finds_no_cluster_the_flags_are_named(chests, tmp_path):
    result = pneumojax(*JOB, f"--data={chests}", "--processes=auto", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "give --coordinator=HOST:PORT --processes=NUMBER --process=INDEX, or leave --processes out" in line


def test_processes_end_with_the_launcher(chests, tmp_path):
    """Killed, it can pass no signal on: they are stopped all the same, rather than hold the workdir for hours."""
    job = start(tmp_path, 2, chests, "--config.epochs=1000")
    while not (tmp_path / "work/config.json").exists():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)
    job.kill()
    told, _ = job.communicate(timeout=LIMIT_S)  # until both have closed what they print to
    assert told.count("interrupted: run the same command again") == 2


def test_what_is_no_joint_work_is_refused_to_several(chests, tmp_path):
    result = pneumojax("--mode=audit", f"--data={chests}", cwd=tmp_path, SLURM_STEP_NUM_TASKS="2")
    assert result.returncode == 2
    assert "--mode=audit is for one process" in result.stderr


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False),  # sbatch's own shell, where srun has started nothing
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "localhost"}, True),
    ],
)
def test_only_an_environment_that_tells_of_several_processes_asks_for_a_job(monkeypatch, variables, several):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.asked(None, None, None) == ({} if several else None)


@pytest.mark.parametrize(
    ("variables", "all_it_sees"),
    [
        ({}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, False),  # one device each, as JAX has it
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, True),  # the machine's devices are its own
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "2"}, True),  # bound to one, whose number is 0
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, False),  # the user has chosen
    ],
)
def test_a_process_has_all_devices_that_no_other_could_take(monkeypatch, variables, all_it_sees):
    """JAX alone would give it the one of its number on the machine, and leave the rest idle, or find none."""
    given = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **told: given.append(told))
    for name in ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.join({})
    processes.join({"process_id": 0})
    assert [told.get("local_device_ids") for told in given] == [[] if all_it_sees else None, None]


SEEN = """
import sys
from etils import epath
from pneumojax import processes
processes.join(processes.asked(sys.argv[1], "2", int(sys.argv[2])))
print([processes.all_see(epath.Path(folder)) for folder in sys.argv[3:]])
"""


def test_a_folder_of_each_machines_own_is_no_common_one(tmp_path):
    """Compiled programs are kept in one that all see, or on GPUs they would wait for each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SEEN, coordinator, str(place), tmp_path / f"own-{place}", tmp_path / "common"],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )
        for place in (0, 1)
    ]  # fmt: skip
    told = [process.communicate(timeout=LIMIT_S)[0].splitlines()[-1] for process in both]  # Gloo's own lines come first
    assert told == ["[False, True]"] * 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_flags_name_a_job_whole():
    told = processes.asked("host:1234", "4", 3)
    assert (told["coordinator_address"], told["num_processes"], told["process_id"]) == ("host:1234", 4, 3)
    assert processes.asked("host:1234", "1", 0) is None
    assert processes.asked(None, "auto", None) == {}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("host:1", None, None), "go together"),
        (("host:1", "2", None), "go together"),
        ((None, "2", 0), "go together"),
        (("host:1", "2", 2), "count from 0"),
        (("host:1", "2", -1), "count from 0"),
        (("host:1", "two", 0), "count from 0"),
        (("host", "2", 0), "not HOST:PORT"),
        ((":1", "2", 0), "not HOST:PORT"),
        (("host:1", "auto", None), "leave them out"),
    ],
)
def test_flags_that_name_half_a_job_are_refused(flags, told):
    with pytest.raises(UserError, match=told):
        processes.asked(*flags)
