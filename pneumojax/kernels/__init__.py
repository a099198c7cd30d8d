"""The block's operations in C++ for CPUs (block.cc), an optional build: python -m pneumojax.kernels.build

Where it is not built, and on other devices, XLA computes the same from fused.py.
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
from jax.sharding import AxisType, PartitionSpec

from pneumojax import machine
from pneumojax.cache import folder

SOURCE = Path(__file__).with_name("block.cc")
SYMBOLS = {name: f"Pneumojax{name.title()}" for name in ("infer", "forward", "backward", "saliency")}


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

    They fit float32 and bfloat16, a kernel of 3x3, a multiple of 32 channels that go out, and one or a multiple of 32
    that come in; not where the caller has divided the batch over devices himself, as in `shard_map`.
    """
    divided_already = AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    if divided_already or not (_fit(*arrays) and load()):
        return plain(*arrays)
    types = [result.dtype for result in jax.eval_shape(plain, *arrays)]
    in_float32 = _divided(kernel, len(arrays[0]))

    def cpu(x, weights, *others):
        """What goes in and out may be bfloat16; all between is float32."""
        results = in_float32(*map(_widened, (x, weights.astype(x.dtype), *others)))
        return tuple(result.astype(dtype) for result, dtype in zip(results, types, strict=True))

    return lax.platform_dependent(*arrays, cpu=cpu, default=plain)


def _widened(array):
    return array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array


def _fit(x, weights, *others):
    channels_in, channels = x.shape[3], weights.shape[3]
    return (
        x.size > 0
        and all(array.dtype in (jnp.float32, jnp.bfloat16, jnp.uint32) for array in (x, weights, *others))
        and all(array.shape == (channels,) for array in others if array.ndim == 1)
        and weights.shape == (3, 3, channels_in, channels)
        and channels % 32 == 0
        and (channels_in == 1 or channels_in % 32 == 0)
    )


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
    """Whether there are sound kernels to call, and PNEUMOJAX_KERNELS is not "off"; registers them with XLA."""
    if os.environ.get("PNEUMOJAX_KERNELS", "").lower() in ("off", "0", "false"):
        return False
    try:
        if (library := built()) is None:
            return False
        functions = ctypes.CDLL(str(library))
    except OSError:  # such as of a C++ library older than the compiler's; building anew tells of it
        return False
    for name, symbol in SYMBOLS.items():
        jax.ffi.register_ffi_target(_target(name), jax.ffi.pycapsule(getattr(functions, symbol)), platform="cpu")
    return True


def built() -> Path | None:
    """The library that was built; None where there is none, or it is not as it was written."""
    for library in libraries().glob(f"{_stem()}-*.so"):
        if library.is_file() and library == path(library.read_bytes()):
            return library
    return None


def path(content: bytes) -> Path:
    """Where a library of this content lies.

    Its name tells what it is built from and for, since a home folder may be seen from unlike machines; and its content,
    since one that is damaged would end the process that loads it.
    """
    return libraries() / f"{_stem()}-{hashlib.sha256(content).hexdigest()[:16]}.so"


def libraries() -> Path:
    """The folder of libraries, in the user's cache folder."""
    return Path(folder("")) / "kernels"


def _stem():
    paths = (*SOURCE.parent.glob("*.cc"), *SOURCE.parent.glob("*.h"), SOURCE.with_name("build.py"))
    sources = (path.read_bytes() for path in sorted(paths))
    target = (jaxlib.__version__, machine.flags() or platform.processor(), *platform.libc_ver())
    parts = (*sources, *(part.encode() for part in target))
    return "block-" + hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def _target(name):
    return f"pneumojax_{name}"
