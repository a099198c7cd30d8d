"""The CPU kernels: they are built once, completely and for this machine, and everything works without them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pneumojax.models import kernels
from pneumojax.models.kernels.build import build
from pneumojax.runtime import host
from pneumojax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
LOADS = "from pneumojax.models import kernels; print(kernels.load())"
compiled = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")


def python(*arguments: str, cache: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run Python with its own user cache folder."""
    settings = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | settings | environment, capture_output=True, text=True, timeout=300)


def test_without_a_build_no_kernels_are_loaded(tmp_path):
    """Nothing is printed or written."""
    result = python("-c", LOADS, cache=tmp_path)
    assert (result.stdout, result.stderr) == ("False\n", "")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """Build a library in a user cache folder named "cache", or copy this machine's there."""
    cache = tmp_path_factory.mktemp("built") / "cache"
    if existing := kernels.built():
        (cache / "pneumojax").mkdir(parents=True)
        shutil.copytree(
            existing.parent, cache / "pneumojax/kernels", ignore=lambda _, names: {*names} - {existing.name}
        )
    else:
        built = python("-m", "pneumojax.models.kernels.build", cache=cache)
        assert built.returncode == 0, built.stderr
    [library] = (path for path in cache.rglob("*") if path.is_file())
    return library


def copied(library: Path, folder: Path) -> tuple[Path, Path]:
    """Copy the cache folder of `library` into `folder`; return the copy and the library in it."""
    cache = next(path for path in library.parents if path.name == "cache")
    return shutil.copytree(cache, folder / "cache"), folder / library.relative_to(cache.parent)


@compiled
def test_built_kernels_are_loaded_unless_they_are_turned_off(library, tmp_path):
    """A second build finds the library of the first, and leaves no other file."""
    cache, library = copied(library, tmp_path)
    written = library.stat().st_mtime_ns
    again = python("-m", "pneumojax.models.kernels.build", cache=cache)
    assert again.returncode == 0 and str(library) in again.stdout
    assert [path for path in cache.rglob("*") if path.is_file()] == [library]
    assert library.stat().st_mtime_ns == written
    assert python("-c", LOADS, cache=cache).stdout == "True\n"
    assert python("-c", LOADS, cache=cache, PNEUMOJAX_KERNELS="off").stdout == "False\n"


@pytest.mark.slow
@compiled
def test_a_damaged_library_is_not_loaded_but_built_again(library, tmp_path):
    """Loading a truncated library would end the process. A compiler need not write the same bytes twice."""
    cache, library = copied(library, tmp_path)
    whole = library.read_bytes()
    for length in (0, 4096, -1):
        library.write_bytes(whole[:length])
        damaged = python("-c", LOADS, cache=cache)
        assert (damaged.returncode, damaged.stdout, damaged.stderr) == (0, "False\n", ""), length
    again = Path(python("-m", "pneumojax.models.kernels.build", cache=cache).stdout.removeprefix("Built: ").rstrip())
    assert again.parent == library.parent and again.stat().st_size > 4096
    assert python("-c", LOADS, cache=cache).stdout == "True\n"


def test_a_library_that_cannot_be_loaded_is_reported_by_the_build_and_not_used(monkeypatch, tmp_path):
    """For example, it needs a newer C++ library than the one that Python has loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = kernels.library_path(b"no library")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    assert kernels.built() == library
    without = python("-c", LOADS, cache=tmp_path)
    assert (without.returncode, without.stdout, without.stderr) == (0, "False\n", "")
    result = python("-m", "pneumojax.models.kernels.build", cache=tmp_path)
    assert result.returncode != 0
    [line] = result.stderr.splitlines()
    assert line.startswith(f"pneumojax: {library} cannot be loaded: ")


FORWARD = """
import os, sys
os.sched_setaffinity(0, [*os.sched_getaffinity(0)][: int(sys.argv[1])])
import hashlib
import jax
from pneumojax.models import block_fused, block_reference, kernels
assert kernels.load()
x = jax.random.normal(jax.random.key(0), (1, 37, 41, 32))
parameters = block_reference.Parameters(jax.random.normal(jax.random.key(1), (3, 3, 32, 64)), *jax.numpy.ones((3, 64)))
seeds = block_reference.dropout(jax.random.key(2), 0.3, (1, 37, 41, 64)).seeds
(y, statistics), pull = jax.vjp(lambda *args: block_fused.block_train(*args, seeds, 0.3), x, parameters)
leaves = jax.tree.leaves((y, statistics, pull((y, statistics))))
print(hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.device_get(leaves))).hexdigest())
"""


@compiled
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2, reason="needs two cores")
def test_one_thread_and_two_give_the_same_bits(library, tmp_path):
    """Also for one image, which is then divided: a run may be resumed with another number of cores."""
    cache, _ = copied(library, tmp_path)
    one, two = (python("-c", FORWARD, count, cache=cache) for count in ("1", "2"))
    assert one.returncode == 0, one.stderr
    assert len(one.stdout) == 65
    assert one.stdout == two.stdout


@pytest.mark.parametrize("compiler", ["/nowhere/c++", sys.executable, shutil.which("false"), shutil.which("true")])
def test_a_failing_compiler_is_reported_on_one_line(tmp_path, compiler):
    """It leaves nothing that could be taken for a library."""
    result = python("-m", "pneumojax.models.kernels.build", cache=tmp_path, CXX=compiler)
    assert result.returncode != 0
    assert result.stderr.startswith(f"pneumojax: {compiler} fails: ")
    assert result.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_missing_compiler_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="no C\\+\\+ compiler"):
        build()


def test_a_library_is_for_one_source_and_one_kind_of_cpu(monkeypatch, tmp_path):
    """Many machines may share a home folder, and a new version of the source must not find the old library."""
    path = kernels.library_path(b"")
    assert kernels.library_path(b"") == path
    assert kernels.library_path(b"other") != path
    for name in ("block.cc", "winograd.h", "build.py"):
        folder = tmp_path / name
        shutil.copytree(kernels.SOURCE.parent, folder)
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "SOURCE", folder / "block.cc")
            assert kernels.library_path(b"") != path
    monkeypatch.setattr(host, "cpu_flags", lambda: "another")
    assert kernels.library_path(b"") != path
