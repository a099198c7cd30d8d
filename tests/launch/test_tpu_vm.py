"""launch/tpu_vm.sh, run with a fake gcloud that records its calls and gives prepared answers."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch/tpu_vm.sh"
FLAGS = ("--config=m1", "--workdir=gs://bucket/runs/m1")
GCLOUD = """#!{python} -IS
import json, os, shutil, sys
from pathlib import Path

folder = Path(os.environ["FAKE"])
with open(folder / "calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
words = sys.argv[1:]
for argument in words:
    if argument.endswith(":pneumojax.tar.gz"):
        shutil.copy(words[words.index("scp") + 1], folder / "copied.tar.gz")
key = " ".join(words[2:4])
if any("pneumojax.main --processes" in argument for argument in words):
    key = "run"
answers = json.loads((folder / "answers").read_text())
answer = answers.get(key, [""])
if len(answer) > 1:
    answers[key] = answer[1:]
    (folder / "answers").write_text(json.dumps(answers))
if isinstance(answer[0], int):
    sys.exit(answer[0])
print(answer[0])
"""
pytestmark = pytest.mark.skipif(not (shutil.which("bash") and shutil.which("git")), reason="needs bash and git")


@pytest.fixture
def cloud(tmp_path):
    """A function that runs the script with prepared answers of gcloud.

    `answers` maps the words of a command to its answers in turn, the last of which repeats: text, or an exit status.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gcloud").write_text(GCLOUD.format(python=sys.executable))
    (programs / "gcloud").chmod(0o755)
    (programs / "sleep").write_text("#!/bin/sh\n")
    (programs / "sleep").chmod(0o755)

    def run(*arguments, answers=None, **environment):
        (tmp_path / "answers").write_text(json.dumps(answers or {}))
        (tmp_path / "calls").write_text("")
        fake = {"PATH": f"{programs}:{os.environ['PATH']}", "FAKE": str(tmp_path)}
        result = subprocess.run(
            [SCRIPT, *arguments], env=os.environ | fake | environment, capture_output=True, text=True, timeout=60
        )
        result.calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
        return result

    return run


def calls(result, *words) -> list[list[str]]:
    """Return the calls of `gcloud compute tpus` that start with `words`."""
    for call in result.calls:
        assert call[:2] == ["compute", "tpus"]
        assert "--zone=us-west4-a" in call
    return [call[2:] for call in result.calls if call[2 : 2 + len(words)] == list(words)]


def commands(result) -> list[str]:
    """Return the commands that the hosts ran."""
    ssh = calls(result, "tpu-vm", "ssh", "xray")
    assert all("--worker=all" in call for call in ssh)
    found = [argument.removeprefix("--command=") for call in ssh for argument in call if "--command=" in argument]
    assert len(found) == len(ssh)
    return found


def runs(result) -> list[str]:
    return [command for command in commands(result) if "pneumojax.main --processes" in command]


READY = {"tpu-vm describe": ["READY"]}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("train",),
        ("train", "xray", "us-west4-a"),
        ("train", "xray", "us-west4-a", "v5litepod-16"),
        ("train", "xray", "us-west4-a", "--config=m1", "--workdir=gs://bucket/m1"),
        ("train", "xray", "us-west4-a", "v5litepod-16", "config=m1"),
        ("train", "xray", "us-west4-a", "v5litepod-16", "--config=m1", "m2"),
        ("stop", "xray"),
        ("stop", "xray", "us-west4-a", "v5litepod-16"),
        ("delete", "xray", "us-west4-a", "--force"),
        ("remove", "xray", "us-west4-a"),
    ],
)
def test_wrong_arguments_print_the_usage(cloud, arguments):
    result = cloud(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")
    assert result.calls == []


def test_an_existing_slice_is_used(cloud):
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=READY)
    assert result.returncode == 0, result.stderr
    assert calls(result, "queued-resources") == []
    assert len(calls(result, "tpu-vm", "scp")) == 1
    assert [command in runs(result) for command in commands(result)] == [False, True]


def test_a_missing_slice_is_requested_once(cloud):
    answers = {
        "tpu-vm describe": [1, 1, "CREATING", "READY"],
        "queued-resources describe": [1, "WAITING_FOR_RESOURCES", "PROVISIONING"],
    }
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=answers, SPOT="1")
    assert result.returncode == 0, result.stderr
    (created,) = calls(result, "queued-resources", "create")
    wanted = {"xray", "--node-id=xray", "--accelerator-type=v5litepod-16", "--spot"}
    assert wanted | {"--runtime-version=v2-alpha-tpuv5-lite"} < set(created)
    assert calls(result, "queued-resources", "delete") == []
    assert len(runs(result)) == 1


@pytest.mark.parametrize(
    ("accelerator", "environment", "runtime"),
    [
        ("v4-16", {}, "tpu-ubuntu2204-base"),
        ("v5p-16", {}, "v2-alpha-tpuv5"),
        ("v6e-16", {}, "v2-alpha-tpuv6e"),
        ("v6e-16", {"RUNTIME": "another"}, "another"),
    ],
)
def test_the_runtime_fits_the_type(cloud, accelerator, environment, runtime):
    answers = {"tpu-vm describe": [1, "READY"], "queued-resources describe": [1]}
    result = cloud("train", "xray", "us-west4-a", accelerator, *FLAGS, answers=answers, **environment)
    (created,) = calls(result, "queued-resources", "create")
    assert f"--runtime-version={runtime}" in created
    assert "--spot" not in created


def test_a_failed_request_ends_the_script(cloud):
    answers = {"tpu-vm describe": [1], "queued-resources describe": ["FAILED"]}
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=answers)
    assert result.returncode == 1
    assert "the request failed" in result.stderr
    assert calls(result, "queued-resources", "create") == []


@pytest.mark.parametrize("status", [75, 76, 255])
def test_a_stopped_run_is_continued(cloud, status):
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=READY | {"run": [status, status, 0]})
    assert result.returncode == 0
    assert len(runs(result)) == 3
    assert len(set(runs(result))) == 1
    assert len(calls(result, "tpu-vm", "scp")) == 1


def test_continuing_is_bounded(cloud):
    answers = READY | {"run": [75]}
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=answers, RESTARTS="2")
    assert result.returncode == 75
    assert len(runs(result)) == 3


@pytest.mark.parametrize("status", [1, 2, 137])
def test_a_run_that_would_fail_again_is_not_continued(cloud, status):
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=READY | {"run": [status, 0]})
    assert result.returncode == status
    assert len(runs(result)) == 1


def test_a_preempted_slice_is_requested_again(cloud):
    """The program is installed on the new slice, and the run continues."""
    answers = {
        "tpu-vm describe": ["READY", "PREEMPTED", "PREEMPTED", 1, "READY"],
        "queued-resources describe": ["SUSPENDED", 1],
        "run": [1, 0],
    }
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=answers)
    assert result.returncode == 0, result.stderr
    (deleted,) = calls(result, "queued-resources", "delete")
    assert "--force" in deleted
    assert len(calls(result, "queued-resources", "create")) == 1
    assert len(calls(result, "tpu-vm", "scp")) == 2
    assert len(runs(result)) == 2


def test_stop_signals_the_run_and_delete_deletes_the_slice(cloud):
    stopped = cloud("stop", "xray", "us-west4-a")
    assert stopped.returncode == 0
    (command,) = commands(stopped)
    assert "pkill -TERM" in command
    deleted = cloud("delete", "xray", "us-west4-a", answers={"queued-resources describe": ["ACTIVE"]})
    assert len(calls(deleted, "queued-resources", "delete", "xray")) == 1
    assert calls(deleted, "tpu-vm", "delete") == []
    without_request = cloud("delete", "xray", "us-west4-a", answers={"queued-resources describe": [1]})
    assert len(calls(without_request, "tpu-vm", "delete", "xray")) == 1


def on_a_host(command: str, home: Path, **stubs: str) -> subprocess.CompletedProcess:
    """Run a host's command in `home`, with shell scripts as `stubs` for programs."""
    programs = home / "bin"
    programs.mkdir()
    for name, text in stubs.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home)}
    return subprocess.run(
        ["bash", "-c", command], cwd=home, env=os.environ | variables, capture_output=True, text=True, timeout=60
    )


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_arguments_reach_the_hosts_unchanged(cloud, tmp_path):
    odd = "--config.data.leave_out=a b|$HOME 'c'"
    data = {"DATA": "gs://bucket/chest xray"}
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, odd, answers=READY, **data)
    (command,) = runs(result)
    host = tmp_path / "host"
    python = host / "pneumojax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 75\n')
    python.chmod(0o755)
    done = on_a_host(command, host)
    arguments = ["-m", "pneumojax.main", "--processes=auto", *FLAGS, odd, "--data=../data/chest xray"]
    assert done.stdout.splitlines() == arguments
    assert done.returncode == 75


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_a_run_continues_when_the_connection_breaks(cloud, tmp_path):
    (command,) = runs(cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=READY))
    host = tmp_path / "host"
    python = host / "pneumojax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    loop = "for i in 1 2 3 4 5 6 7 8 9; do echo epoch $i || exit 1; /bin/sleep 0.05; done"
    python.write_text(f"#!/bin/sh\n{loop}\nexit 75\n")
    python.chmod(0o755)
    done = subprocess.Popen(["bash", "-c", command], cwd=host, stdout=subprocess.PIPE, text=True)
    assert done.stdout.readline() == "epoch 1\n"
    done.stdout.close()
    assert done.wait(timeout=60) == 75
    assert (host / "pneumojax/run.log").read_text().splitlines()[-1] == "epoch 9"


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_hosts_install_the_committed_files(cloud, tmp_path):
    result = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=READY, DATA="gs://bucket/chest xray")
    install = commands(result)[0]
    host = tmp_path / "host"
    (host / "pneumojax/pneumojax").mkdir(parents=True)
    (host / "pneumojax/pneumojax/outdated.py").touch()
    (host / "pneumojax/.venv").mkdir()
    shutil.copy(tmp_path / "copied.tar.gz", host / "pneumojax.tar.gz")
    with tarfile.open(host / "pneumojax.tar.gz") as archive:
        committed = archive.getnames()
    done = on_a_host(install, host, python3='echo "$@" >> ~/installed', gcloud='printf "%s\\n" "$@" >> ~/copied')
    assert done.returncode == 0, done.stderr
    assert (host / "pneumojax/pneumojax/main.py").exists()
    assert (host / "pneumojax/requirements.lock").exists()
    assert not (host / "pneumojax/pneumojax/outdated.py").exists()
    assert (host / "pneumojax/.venv").exists()
    assert "pneumojax/main.py" in committed
    installed = (host / "installed").read_text().splitlines()
    assert installed[0].startswith("-m pip install")
    assert installed[-1].endswith("--editable .[tpu]")
    copied = ["storage", "rsync", "--recursive", "gs://bucket/chest xray", "../data/chest xray"]
    assert (host / "copied").read_text().splitlines() == copied
    assert (host / "data").is_dir()


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_a_failed_installation_ends_the_script(cloud, tmp_path):
    install = commands(cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=READY))[0]
    host = tmp_path / "host"
    host.mkdir()
    shutil.copy(tmp_path / "copied.tar.gz", host / "pneumojax.tar.gz")
    assert on_a_host(install, host, python3="exit 3").returncode == 3
    failed = cloud("train", "xray", "us-west4-a", "v5litepod-16", *FLAGS, answers=READY | {"tpu-vm ssh": [3]})
    assert failed.returncode == 3
    assert runs(failed) == []
