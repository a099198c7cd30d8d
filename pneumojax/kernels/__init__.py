"""The block's operations in C++ for CPUs (block.cc), an optional build: python -m pneumojax.kernels.build

Where it is not built, and on other devices, XLA computes the same from layers.py.
"""

import ctypes
import hashlib
import os
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax
from jax.sharding import PartitionSpec

from pneumojax.cache import folder

SOURCE = Path(__file__).with_name("block.cc")
SYMBOLS = {"infer": "PneumojaxInfer", "forward": "PneumojaxForward", "backward": "PneumojaxBackward"}


class Kernel(NamedTuple):
    """A function of block.cc, to be called with arrays of which the first is x and the second the kernel.

    `inputs` and `outputs` have a letter for each array: n where its first axis is the batch, - where it has none; such
    an output is a sum over the batch. `shapes` tells the outputs' shapes from the inputs.
    """

    name: str
    inputs: str
    outputs: str
    shapes: Callable[..., tuple[tuple[int, ...], ...]]
    attributes: dict

    def __call__(self, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes(*arrays)]
        call = jax.ffi.ffi_call(_target(self.name), results, vmap_method="sequential")
        return tuple(call(*arrays, **self.attributes))


def lowered(plain: Callable, kernel: Kernel, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """`kernel` of the arrays where that is compiled for a CPU, the kernels are built and fit; else `plain` of them.

    They fit float32, a multiple of 32 channels that go out, and one or a multiple of 32 that come in.
    """
    x, weights = arrays[:2]
    fit = x.dtype == jnp.float32 and weights.shape[3] % 32 == 0 and (x.shape[3] == 1 or x.shape[3] % 32 == 0)
    if not (fit and load()):
        return plain(*arrays)
    return lax.platform_dependent(*arrays, cpu=_divided(kernel, len(x)), default=plain)


def _divided(kernel, batch):
    """`kernel` on each device's own part of the batch, since the compiler cannot look into it to divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or batch % mesh.size:
        return lambda *arrays: kernel(*arrays)
    specs = {"n": PartitionSpec(mesh.axis_names), "-": PartitionSpec()}

    def own(*arrays):
        results = zip(kernel(*arrays), kernel.outputs, strict=True)
        return tuple(result if kind == "n" else lax.psum(result, mesh.axis_names) for result, kind in results)

    inputs, outputs = (tuple(specs[kind] for kind in kinds) for kinds in (kernel.inputs, kernel.outputs))
    return jax.shard_map(own, in_specs=inputs, out_specs=outputs, check_vma=False)


@cache
def load() -> bool:
    """Whether there are built kernels to call, and PNEUMOJAX_KERNELS is not "off"; registers them with XLA."""
    if os.environ.get("PNEUMOJAX_KERNELS") == "off" or not path().exists():
        return False
    library = ctypes.CDLL(str(path()))
    for name, symbol in SYMBOLS.items():
        jax.ffi.register_ffi_target(_target(name), jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    return True


def path() -> Path:
    """Where the library lies, once it is built from these sources for this jaxlib and this kind of CPU.

    A home folder may be seen from machines whose CPUs know other instructions.
    """
    sources = (path.read_bytes() for path in sorted(SOURCE.parent.glob("*.[ch]*")))
    parts = (*sources, jaxlib.__version__.encode(), _instructions().encode())
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    return Path(folder("")) / "kernels" / f"block-{key[:16]}.so"


def _instructions():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _target(name):
    return f"pneumojax_{name}"
