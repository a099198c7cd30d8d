"""Compiles the CPU kernels, in about fifteen seconds, into the user's cache folder: python -m pneumojax.kernels.build

Needs g++ or clang++, or the compiler that $CXX names. Where there is none, all works without, more slowly.
"""

import ctypes
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax

from pneumojax import kernels
from pneumojax.errors import UserError, one_line

_FOR_THIS_CPU = "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"


def build() -> Path:
    """Compiles the kernels, unless they are built, and returns where the library lies.

    Raises:
      UserError: there is no compiler, or it fails, or what it makes cannot be loaded.
      OSError: the cache folder cannot be written.
    """
    library = kernels.built() or _build()
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        raise UserError(f"{library} cannot be loaded: {one_line(str(error))}") from None
    return library


def _build() -> Path:
    compiler = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or shutil.which("clang++")]
    if not compiler[0]:
        raise UserError("no C++ compiler is found: install g++ or clang++, or name one as CXX=...")
    kernels.libraries().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kernels.libraries()) as folder:
        unfinished = Path(folder) / "block.so"
        if failure := _compile([*compiler, _FOR_THIS_CPU], unfinished):
            raise UserError(f"{shlex.join(compiler)} fails: {failure}")
        return unfinished.replace(kernels.path(unfinished.read_bytes()))


def _compile(compiler, target):
    """Why it fails, in a line; empty if it does not."""
    command = [*compiler, "-std=c++17", "-O3", "-fPIC", "-shared", "-w", f"-I{jax.ffi.include_dir()}"]
    try:
        result = subprocess.run([*command, "-o", target, kernels.SOURCE], capture_output=True, text=True)
    except OSError as error:
        return error.strerror
    if result.returncode == 0 and target.exists():
        return ""
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    return lines[0] if lines else f"it ends with status {result.returncode} and writes nothing"


def _run():
    try:
        print(f"Built: {build()}")
    except UserError as error:
        sys.exit(f"pneumojax: {error}")
    except OSError as error:
        sys.exit(f"pneumojax: {error.filename}: {error.strerror}")


if __name__ == "__main__":
    _run()
