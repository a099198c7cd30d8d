"""Building the CPU kernels: once, whole, for this machine; and doing without."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pneumojax import kernels, machine
from pneumojax.errors import UserError
from pneumojax.kernels.build import build

ROOT = Path(__file__).parent.parent
WHETHER = "from pneumojax import kernels; print(kernels.load())"
compiled = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")


def python(*arguments: str, cache: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python with its own user's cache folder."""
    own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=os.environ | own | environment, capture_output=True, text=True, timeout=300)


def test_without_a_build_there_are_none(tmp_path):
    """And nothing is said or written."""
    result = python("-c", WHETHER, cache=tmp_path)
    assert (result.stdout, result.stderr) == ("False\n", "")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """All that a build leaves in the user's cache folder, "cache": that of this machine, where there is one."""
    cache = tmp_path_factory.mktemp("built") / "cache"
    if there := kernels.built():
        (cache / "pneumojax").mkdir(parents=True)
        shutil.copytree(there.parent, cache / "pneumojax/kernels", ignore=lambda _, names: {*names} - {there.name})
    else:
        built = python("-m", "pneumojax.kernels.build", cache=cache)
        assert built.returncode == 0, built.stderr
    [library] = (path for path in cache.rglob("*") if path.is_file())
    return library


def copied(library: Path, folder: Path) -> tuple[Path, Path]:
    """The cache folder of a `library`, copied into `folder`; and the copied library."""
    cache = next(path for path in library.parents if path.name == "cache")
    return shutil.copytree(cache, folder / "cache"), folder / library.relative_to(cache.parent)


@compiled
def test_what_is_built_is_loaded_unless_it_is_turned_off(library, tmp_path):
    """A second build finds the first one's; no other file is left."""
    cache, own = copied(library, tmp_path)
    written = own.stat().st_mtime_ns
    again = python("-m", "pneumojax.kernels.build", cache=cache)
    assert again.returncode == 0 and str(own) in again.stdout
    assert [path for path in cache.rglob("*") if path.is_file()] == [own]
    assert own.stat().st_mtime_ns == written
    assert python("-c", WHETHER, cache=cache).stdout == "True\n"
    assert python("-c", WHETHER, cache=cache, PNEUMOJAX_KERNELS="off").stdout == "False\n"


@compiled
def test_a_damaged_library_is_not_loaded_and_built_anew(library, tmp_path):
    """Loading one that is cut short would end the process. A compiler need not write the same bytes again."""
    cache, library = copied(library, tmp_path)
    whole = library.read_bytes()
    for length in (0, 4096, -1):
        library.write_bytes(whole[:length])
        damaged = python("-c", WHETHER, cache=cache)
        assert (damaged.returncode, damaged.stdout, damaged.stderr) == (0, "False\n", ""), length
    again = Path(python("-m", "pneumojax.kernels.build", cache=cache).stdout.removeprefix("Built: ").rstrip())
    assert again.parent == library.parent and again.stat().st_size > 4096
    assert python("-c", WHETHER, cache=cache).stdout == "True\n"


def test_a_library_that_cannot_be_loaded_is_told_where_it_is_built_and_done_without(monkeypatch, tmp_path):
    """Such as one that needs a newer C++ library than Python has loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library = kernels.path(b"no library")
    library.parent.mkdir(parents=True)
    library.write_bytes(b"no library")
    assert kernels.built() == library
    without = python("-c", WHETHER, cache=tmp_path)
    assert (without.returncode, without.stdout, without.stderr) == (0, "False\n", "")
    result = python("-m", "pneumojax.kernels.build", cache=tmp_path)
    assert result.returncode != 0
    [line] = result.stderr.splitlines()
    assert line.startswith(f"pneumojax: {library} cannot be loaded: ")


FORWARD = """
import os, sys
os.sched_setaffinity(0, [*os.sched_getaffinity(0)][: int(sys.argv[1])])
import hashlib
import jax
from pneumojax import fused, kernels, layers
assert kernels.load()
x = jax.random.normal(jax.random.key(0), (1, 37, 41, 32))
parameters = layers.Parameters(jax.random.normal(jax.random.key(1), (3, 3, 32, 64)), *jax.numpy.ones((3, 64)))
seeds = layers.dropout(jax.random.key(2), 0.3, (1, 37, 41, 64)).seeds
(y, statistics), pull = jax.vjp(lambda *given: fused.block_train(*given, seeds, 0.3), x, parameters)
leaves = jax.tree.leaves((y, statistics, pull((y, statistics))))
print(hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.device_get(leaves))).hexdigest())
"""


@compiled
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or (os.cpu_count() or 1) < 2, reason="needs two cores")
def test_one_thread_and_two_give_the_same_bits(library, tmp_path):
    """Also of one image, which is then divided: a run may go on where it has other cores."""
    cache, _ = copied(library, tmp_path)
    one, two = (python("-c", FORWARD, count, cache=cache) for count in ("1", "2"))
    assert one.returncode == 0, one.stderr
    assert len(one.stdout) == 65
    assert one.stdout == two.stdout


@pytest.mark.parametrize("compiler", ["/nowhere/c++", sys.executable, shutil.which("false"), shutil.which("true")])
def test_a_compiler_that_fails_is_told_in_a_line(tmp_path, compiler):
    """And leaves nothing that could be taken for a library."""
    result = python("-m", "pneumojax.kernels.build", cache=tmp_path, CXX=compiler)
    assert result.returncode != 0
    assert result.stderr.startswith(f"pneumojax: {compiler} fails: ")
    assert result.stderr.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_compiler_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="no C\\+\\+ compiler"):
        build()


def test_a_library_is_for_one_source_and_one_kind_of_cpu(monkeypatch, tmp_path):
    """A home folder is seen from many machines; a new version of the source must not find the old one's."""
    own = kernels.path(b"")
    assert kernels.path(b"") == own
    assert kernels.path(b"other") != own
    for name in ("block.cc", "winograd.h", "build.py"):
        folder = tmp_path / name
        shutil.copytree(kernels.SOURCE.parent, folder)
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "SOURCE", folder / "block.cc")
            assert kernels.path(b"") != own
    monkeypatch.setattr(machine, "flags", lambda: "another")
    assert kernels.path(b"") != own
