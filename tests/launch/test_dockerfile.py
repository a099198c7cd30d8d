"""The files that the Dockerfile copies exist and reach the build, its versions are locked, and signals reach Python."""

import importlib.util
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
    """Return the arguments of every instruction of that name, with continued lines joined."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#")).replace("\\\n", "")
    return [line.partition(" ")[2] for line in lines.splitlines() if line.startswith(f"{name} ")]


def sources() -> list[str]:
    """Return the paths that are copied from the repository."""
    return [path for copied in instructions("COPY") if "--from" not in copied for path in copied.split()[:-1]]


def is_sent(path: str, rules: list[str] = IGNORED) -> bool:
    """Whether .dockerignore lets the path through; the last rule that matches decides."""
    sent = True
    for rule in rules:
        if fnmatch(path, rule.removeprefix("!")):
            sent = rule.startswith("!")
    return sent


def test_copied_files_exist():
    assert {"requirements.lock", "pyproject.toml", "pneumojax", "configs"} <= set(sources())
    for path in sources():
        assert (ROOT / path).exists(), path
        assert is_sent(path), path


@pytest.mark.parametrize("path", ["chest_xray", "runs", ".git", ".venv", "shared", "film.png"])
def test_images_and_runs_stay_out_of_the_build(path):
    """They may be confidential, and large."""
    assert not is_sent(path)
    assert is_sent(path, ["*.txt"])


def test_the_build_has_every_file_that_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    hatch = project["tool"]["hatch"]
    wheel, readme = hatch["build"]["targets"]["wheel"], hatch["metadata"]["hooks"]["fancy-pypi-readme"]
    needed = {*wheel["packages"], *wheel["force-include"], *project["project"]["license-files"]}
    assert needed | {fragment["path"] for fragment in readme["fragments"]} <= set(sources())


def test_every_install_uses_the_locked_versions():
    installs = [command for command in " && ".join(instructions("RUN")).split("&&") if "pip install" in command]
    assert len(installs) == 3
    assert all(word in " ".join(installs) for word in ("--requirement requirements.lock", "--no-deps"))
    assert all("requirements.lock" in command or "--no-deps" in command for command in installs)


@pytest.mark.parametrize("extra", ["cuda", "tpu", "cpu"])
def test_each_extra_installs_its_jax(extra, monkeypatch, capsys):
    (program,) = re.findall(r'python -c "(import .*?)" > extra.txt', "\n".join(instructions("RUN")))
    monkeypatch.chdir(ROOT)
    exec(program.replace("$EXTRA", extra), {})
    expected = {"cuda": "jax[cuda", "tpu": "jax[tpu]", "cpu": "jax\n"}[extra]
    assert capsys.readouterr().out.startswith(expected)
    with pytest.raises(KeyError):
        exec(program.replace("$EXTRA", "gpu"), {})


def test_the_base_image_has_a_tested_python():
    bases = {image.split()[0] for image in instructions("FROM")}
    assert len(bases) == 1
    version = re.fullmatch(r"python:(3\.\d+)-slim", bases.pop())[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_modules_that_it_runs_exist():
    modules = re.findall(r"python -m (pneumojax[\w.]*)", "\n".join(instructions("RUN")))
    assert modules
    assert all(importlib.util.find_spec(module) for module in modules)


def test_signals_reach_python_which_does_not_run_as_root():
    (entrypoint,) = instructions("ENTRYPOINT")
    assert json.loads(entrypoint) == ["python", "-m", "pneumojax.main"]  # without a shell
    assert instructions("USER") == ["1000:1000"]
