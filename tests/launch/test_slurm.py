"""launch/slurm.sbatch on a SLURM cluster of one node, with two tasks. `make test-slurm` starts the cluster, as root."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from jobs import has_checkpoint, outcome
from support import JOB, ROOT

from pneumojax.runtime import signals

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
LIMIT_S = 600

if "SLURM" not in os.environ:
    pytest.skip("starts a SLURM cluster on this machine: see `make test-slurm`", allow_module_level=True)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A function that calls a command of SLURM: name, arguments -> what the command prints."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    assert not missing, f"{missing} not found: run `apt-get install slurm-wlm munge`"
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    host, munge = socket.gethostname(), folder / "munge"
    munge.mkdir(mode=0o755)
    key = munge / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(
        f"""
ClusterName=test
SlurmctldHost={host}
AuthType=auth/munge
# A requeued job can start when the credentials of its last start have expired: by default after two minutes.
AuthInfo=socket={munge}/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmctldPort=17817
SlurmdPort=17818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )
    for index in (0, 1):  # files that stand for GPUs, since the script requests one per task
        (folder / f"gpu{index}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
    (folder / "spool").mkdir()
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT)}
    paths = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "log", "seed")]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={munge}/socket", *paths],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    ]
    running = []

    def call(name, *arguments):
        command = [name, *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        return result.stdout

    try:
        for daemon in daemons:
            with (folder / f"{daemon[0]}.log").open("w") as log:
                running.append(subprocess.Popen(daemon, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        wait_until(lambda: "IDLE" in call("scontrol", "show", "node", host), 60)
        yield call
    finally:
        for daemon in reversed(running):
            daemon.terminate()
            daemon.wait(30)


def wait_until(holds, seconds):
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.2)


def submit(slurm, folder, chests) -> str:
    exported = f"ALL,DATA={chests},WORKDIR=work,PYTHON={sys.executable}"
    more = ("--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1", "--output=log.txt", f"--chdir={folder}")
    flags = [option for option in JOB if not option.startswith(("--config=", "--workdir="))]
    script = ROOT / "launch" / "slurm.sbatch"
    return slurm("sbatch", "--parsable", f"--export={exported}", *more, script, "m1", *flags).strip()


def state_of(slurm, job) -> dict[str, str]:
    return dict(word.split("=", 1) for word in slurm("scontrol", "show", "job", job).split() if "=" in word)


def wait_for(slurm, job, folder) -> dict[str, str]:
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    wait_until(lambda: state_of(slurm, job)["JobState"] in ended, LIMIT_S)
    state = state_of(slurm, job)
    assert state["JobState"] == "COMPLETED", (folder / "log.txt").read_text()
    return state


def test_a_signalled_job_is_requeued_and_ends_like_an_undisturbed_one(slurm, chests, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    wait_for(slurm, submit(slurm, whole, chests), whole)

    job = submit(slurm, stopped, chests)
    wait_until(lambda: has_checkpoint(stopped), LIMIT_S)
    slurm("scancel", f"--signal={signal.SIGTERM.name}", job)
    state = wait_for(slurm, job, stopped)
    assert state["Restarts"] == "1"
    log = (stopped / "log.txt").read_text()
    assert signals.MESSAGE in log
    assert "Resuming within epoch" in log
    found, expected = outcome(stopped), outcome(whole)
    assert found.lines == expected.lines
    assert found.images == expected.images
    assert found.logits.tolist() == expected.logits.tolist()
    assert found.gradients.tolist() == expected.gradients.tolist()
