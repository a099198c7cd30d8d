"""Compiles the CPU kernels, in about ten seconds, into the user's cache folder: python -m pneumojax.kernels.build

Needs g++ or clang++, or the compiler that $CXX names. Where there is none, all works without, more slowly.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from pneumojax import kernels
from pneumojax.errors import UserError

# clang for Apple's CPUs does not know -march=native.
_FOR_THIS_CPU = ("-march=native", "-mcpu=native")


def build() -> Path:
    """Compiles the kernels, unless they are built, and returns where the library lies.

    Raises:
      UserError: there is no compiler, or it fails.
      OSError: the cache folder cannot be written.
    """
    library = kernels.path()
    if library.exists():
        return library
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise UserError("no C++ compiler is found: install g++ or clang++, or name one as CXX=...")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unfinished = Path(folder) / library.name
        for flag in _FOR_THIS_CPU:
            failure = _compile(compiler, flag, unfinished)
            if not failure:
                unfinished.replace(library)  # whole, or not there, for whoever looks
                return library
    raise UserError(f"{compiler} fails: {failure}")


def _compile(compiler, flag, target):
    """Why it fails, in a line; empty if it does not."""
    command = [compiler, "-std=c++17", "-O3", flag, "-fPIC", "-shared", "-w", f"-I{jax.ffi.include_dir()}"]
    try:
        result = subprocess.run([*command, "-o", target, kernels.SOURCE], capture_output=True, text=True)
    except OSError as error:
        return error.strerror
    lines = [line for line in result.stderr.splitlines() if "error" in line] or [f"status {result.returncode}"]
    return lines[0] if result.returncode else ""


def _run():
    try:
        print(f"Built: {build()}")
    except (UserError, OSError) as error:
        sys.exit(f"pneumojax: {error}")


if __name__ == "__main__":
    _run()
