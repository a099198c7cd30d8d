"""The Dockerfile: what it copies is there and reaches the build, and signals reach Python."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch/Dockerfile").read_text()
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of that name, continued lines joined."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")).replace("\\\n", "")
    return [line.partition(" ")[2] for line in lines.splitlines() if line.startswith(f"{name} ")]


def sources() -> list[str]:
    """What is copied from the repository."""
    return [path for copied in instructions("COPY") if "--from" not in copied for path in copied.split()[:-1]]


def is_sent(path: str, rules: list[str] = IGNORED) -> bool:
    """Whether the build gets it: the last rule that fits decides."""
    sent = True
    for rule in rules:
        if fnmatch(path, rule.removeprefix("!")):
            sent = rule.startswith("!")
    return sent


def test_what_is_copied_is_there():
    assert {"requirements.lock", "pyproject.toml", "pneumojax", "configs"} <= set(sources())
    for path in sources():
        assert (ROOT / path).exists(), path
        assert is_sent(path), path


@pytest.mark.parametrize("path", ["chest_xray", "runs", ".git", ".venv", "shared", "film.png"])
def test_images_and_runs_are_not_sent(path):
    assert not is_sent(path)
    assert is_sent(path, ["*.txt"])


def test_the_package_has_all_files_that_it_is_built_from():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}
    assert needed | set(project["project"]["license-files"]) <= set(sources())


def test_versions_are_the_locked_ones():
    installs = [command for command in " && ".join(instructions("RUN")).split("&&") if "pip install" in command]
    assert len(installs) == 3
    assert all(word in " ".join(installs) for word in ("--requirement requirements.lock", "--no-deps"))
    assert all("requirements.lock" in command or "--no-deps" in command for command in installs)


@pytest.mark.parametrize("extra", ["cuda", "tpu", "cpu"])
def test_the_extra_is_found(extra, monkeypatch, capsys):
    (program,) = re.findall(r'python -c "(import .*?)" > extra.txt', "\n".join(instructions("RUN")))
    monkeypatch.chdir(ROOT)
    exec(program.replace("$EXTRA", extra), {})
    expected = {"cuda": "jax[cuda", "tpu": "jax[tpu]", "cpu": "jax\n"}[extra]
    assert capsys.readouterr().out.startswith(expected)
    with pytest.raises(KeyError):
        exec(program.replace("$EXTRA", "gpu"), {})


def test_the_base_is_a_tested_python():
    bases = {image.split()[0] for image in instructions("FROM")}
    assert len(bases) == 1
    version = re.fullmatch(r"python:(3\.\d+)-slim", bases.pop())[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_signals_reach_python_and_root_does_not_run_it():
    (entrypoint,) = instructions("ENTRYPOINT")
    assert json.loads(entrypoint) == ["python", "-m", "pneumojax.main"]  # the form without a shell
    assert instructions("USER") == ["1000:1000"]
