"""A job of several processes, over loopback: equal to one process; interrupted; a process lost or never there."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jobs import LIMIT_S, finish, outcome, start, start_until_saved
from support import JOB, ROOT, pneumojax

from pneumojax.runtime import distributed
from pneumojax.runtime.errors import UserError


def assert_near(found, expected):
    """Check that two runs agree: steps, epochs, splits, images and accuracies exactly, other numbers to float32.

    Only at the paper's small learning rate: Adam takes a whole step even where a gradient is nothing but rounding.
    """
    assert found.images == expected.images
    for line, expected_line in zip(found.lines, expected.lines, strict=True):
        assert line.pop("bce") == pytest.approx(expected_line["bce"], abs=1e-5)
        assert line.pop("auc") == pytest.approx(expected_line["auc"], abs=0.01)  # nearly equal logits may change places
        assert line == {name: expected_line[name] for name in line}
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)
    assert np.linalg.norm(found.gradients - expected.gradients) < 1e-3 * np.linalg.norm(expected.gradients)


linux = pytest.mark.skipif(not Path("/proc").exists(), reason="finds a job's processes in /proc")


@pytest.mark.slow
@linux
def test_a_job_of_two_stopped_by_a_signal_to_one_continues_in_one_process(chests, tmp_path, alone):
    job, (_, second) = start_until_saved(tmp_path, 2, chests)
    os.kill(second, signal.SIGTERM)
    printed, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 75, printed
    result = pneumojax(*JOB, f"--data={chests}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Resuming within epoch" in result.stdout
    assert_near(outcome(tmp_path), outcome(alone))


@linux
@pytest.mark.skipif("KILLS" not in os.environ, reason="takes minutes: make soak runs it")
def test_a_job_of_two_that_loses_a_process_continues_in_four(chests, tmp_path, alone):
    job, (_, second) = start_until_saved(tmp_path, 2, chests)
    os.kill(second, signal.SIGKILL)
    printed, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 128 + signal.SIGKILL, printed
    assert "pneumojax: another process of the job has ended" in printed
    assert "Traceback" not in printed
    printed = finish(tmp_path, 4, chests)
    assert "Resuming within epoch" in printed
    assert printed.count("Resuming") == printed.count("Report:") == 1, "only the first process prints"
    assert_near(outcome(tmp_path), outcome(alone))

    # Each process predicts its own part of the images.
    finish(tmp_path, 2, chests / "test", "--mode=predict")
    parts = sorted((tmp_path / "work" / "predictions").glob("*.csv"))
    assert [path.name for path in parts] == ["test-00000-of-00002.csv", "test-00001-of-00002.csv"]
    rows = [line for path in parts for line in path.read_text().splitlines()[1:]]
    assert len(rows) == len({row.partition(",")[0] for row in rows}) == 40


def test_a_mistake_ends_every_process_of_a_job(chests, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("not a run")
    job = start(tmp_path, 2, chests)
    printed, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 2, printed
    assert "is not empty and holds no run" in printed
    assert os.listdir(tmp_path / "work") == ["thesis.txt"]


def test_a_process_does_not_wait_forever_for_a_coordinator(chests, tmp_path):
    job = ("--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--join_seconds=3")
    result = pneumojax(*JOB, f"--data={chests}", *job, cwd=tmp_path)
    assert result.returncode == 76, "not a mistake of this process: the same command may work"
    (line,) = result.stderr.strip().splitlines()
    assert "did not come within 3 s as process 1 of 2, coordinator 127.0.0.1:9" in line
    assert not (tmp_path / "work").exists()


def test_a_signal_stops_a_process_that_waits_for_the_others(chests, tmp_path):
    job = ("--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--join_seconds=100")
    process = subprocess.Popen(
        [sys.executable, "-m", "pneumojax.main", *JOB, f"--data={chests}", *job], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(6)  # by then it waits, or is about to
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 75, complaint
    assert complaint == "pneumojax: interrupted: run the same command again to continue\n"


def test_without_a_cluster_the_message_names_the_flags(chests, tmp_path):
    result = pneumojax(*JOB, f"--data={chests}", "--processes=auto", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "give --coordinator=HOST:PORT --processes=NUMBER --process=INDEX, or leave --processes out" in line


@pytest.mark.slow
def test_processes_end_with_the_launcher(chests, tmp_path):
    """A killed launcher passes no signal on, but its processes must not hold the workdir for hours."""
    job = start(tmp_path, 2, chests, "--config.epochs=1000")
    while not (tmp_path / "work/config.json").exists():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)
    job.kill()
    printed, _ = job.communicate(timeout=LIMIT_S)  # until both have closed their output
    assert printed.count("interrupted: run the same command again") == 2


def test_a_mode_for_one_process_is_refused_to_several(chests, tmp_path):
    result = pneumojax("--mode=audit", f"--data={chests}", cwd=tmp_path, SLURM_STEP_NUM_TASKS="2")
    assert result.returncode == 2
    assert "--mode=audit is for one process" in result.stderr


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False),  # the shell of sbatch, where srun has started nothing
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "localhost"}, True),
    ],
)
def test_only_an_environment_with_several_processes_makes_a_job(monkeypatch, variables, several):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.requested(None, None, None) == ({} if several else None)


@pytest.mark.parametrize(
    ("variables", "all_visible"),
    [
        ({}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, False),  # one device each, JAX's default
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, True),  # alone on its machine
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, True),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "2"}, True),  # bound to one
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, False),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, True),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, False),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, False),  # the user has chosen
    ],
)
def test_a_process_takes_every_device_that_no_other_process_could_take(monkeypatch, variables, all_visible):
    """JAX would give it only the device of its own number on the machine, and leave the rest idle, or find none."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **arguments: calls.append(arguments))
    for name in ("SLURM_STEP_TASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.join({})
    distributed.join({"process_id": 0})
    assert [arguments.get("local_device_ids") for arguments in calls] == [[] if all_visible else None, None]


SEEN = """
import sys
from etils import epath
from pneumojax.runtime import distributed
distributed.join(distributed.requested(sys.argv[1], "2", int(sys.argv[2])))
print([distributed.all_see(epath.Path(folder)) for folder in sys.argv[3:]])
"""


def test_a_folder_of_each_machine_is_not_seen_by_all(tmp_path):
    """Compiled programs are kept only in a folder that all see: GPUs that do not find one would wait for others."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SEEN, coordinator, str(process), tmp_path / f"own-{process}", tmp_path / "common"],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )
        for process in (0, 1)
    ]  # fmt: skip
    answers = [process.communicate(timeout=LIMIT_S)[0].splitlines()[-1] for process in both]  # Gloo prints lines first
    assert answers == ["[False, True]"] * 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_flags_describe_a_job():
    job = distributed.requested("host:1234", "4", 3)
    assert (job["coordinator_address"], job["num_processes"], job["process_id"]) == ("host:1234", 4, 3)
    assert distributed.requested("host:1234", "1", 0) is None
    assert distributed.requested(None, "auto", None) == {}


@pytest.mark.parametrize(
    ("flags", "message"),
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
def test_flags_that_do_not_fit_together_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        distributed.requested(*flags)


def test_a_port_that_is_taken_is_reported_in_one_line(tmp_path):
    """JAX would crash in most starts."""
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        flags = (f"--coordinator=localhost:{port}", "--processes=2", "--process=0")
        done = pneumojax("--config=m1", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"pneumojax: cannot listen on port {port} (Address already in use): choose another in --coordinator\n"
    )


@pytest.mark.parametrize("port", ["0", "65536", "99999", "port", ""])
def test_a_port_that_cannot_be_is_refused(port):
    with pytest.raises(UserError, match="is not HOST:PORT"):
        distributed.requested(f"localhost:{port}", "2", 0)
