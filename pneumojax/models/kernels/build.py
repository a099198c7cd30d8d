"""Compile the CPU kernels into the user's cache folder: python -m pneumojax.models.kernels.build

This takes about fifteen seconds, and needs g++, clang++ or the compiler that $CXX names. Without the kernels
everything works, more slowly.
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

from pneumojax.models import kernels
from pneumojax.runtime.errors import UserError, one_line

_FOR_THIS_CPU = "-march=native" if platform.machine() in ("x86_64", "AMD64", "i686") else "-mcpu=native"


def build() -> Path:
    """Compile the kernels unless they are built already, and return the path of the library.

    Raises:
      UserError: there is no compiler, it fails, or its result cannot be loaded.
      OSError: the cache folder cannot be written.
    """
    library = kernels.built() or _build()
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        reason = one_line(str(error))
        raise UserError(f"{library} cannot be loaded: {reason}: delete it and build with another compiler") from None
    return library


def _build() -> Path:
    compiler = _compiler()
    kernels.libraries().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kernels.libraries()) as folder:
        unfinished = Path(folder) / "block.so"
        if failure := _compile([*compiler, _FOR_THIS_CPU], unfinished):
            raise UserError(f"{shlex.join(compiler)} fails: {failure}: name another compiler as CXX=...")
        return unfinished.replace(kernels.library_path(unfinished.read_bytes()))


def _compiler() -> list[str]:
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    if installed := shutil.which("g++") or shutil.which("clang++"):
        return [installed]
    raise UserError("no C++ compiler is installed: install g++ or clang++, or name one as CXX=...")


def _compile(compiler: list[str], target: Path) -> str:
    """Compile the kernels, and return why that fails on one line; empty if it succeeds."""
    command = [*compiler, "-std=c++17", "-O3", "-fPIC", "-shared", "-w", f"-I{jax.ffi.include_dir()}"]
    try:
        result = subprocess.run([*command, "-o", target, kernels.SOURCE], capture_output=True, text=True)
    except OSError as error:
        return error.strerror or str(error)
    if result.returncode == 0 and target.exists():
        return ""
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    return errors[0] if errors else f"exit status {result.returncode}, no library written"


def _run() -> None:
    try:
        print(f"Built: {build()}")
    except UserError as error:
        sys.exit(f"pneumojax: {error}")
    except OSError as error:
        sys.exit(f"pneumojax: {error.filename}: {error.strerror}")


if __name__ == "__main__":
    _run()
