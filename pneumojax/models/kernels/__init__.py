"""The block's operations in C++ for CPUs (block.cc).

Building them is optional: python -m pneumojax.models.kernels.build

Where they are not built, and on other devices, XLA computes the same from block_operations.py.
"""

import ctypes
import hashlib
import os
import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from pneumojax.runtime import host
from pneumojax.runtime.cache import folder

SOURCE = Path(__file__).with_name("block.cc")
SYMBOLS = {name: f"Pneumojax{name.title()}" for name in ("infer", "forward", "backward", "saliency")}

Operand = jax.Array | np.ndarray
Results = tuple[jax.Array, ...]


class Kernel(NamedTuple):
    """A function of block.cc. Call it with arrays of which the first is x and the second the convolution's kernel.

    Attributes:
      name: one of `SYMBOLS`.
      inputs: a letter for each input array: n where its first axis is the batch, - where it has no such axis.
      outputs: the same for each output array; one without a batch axis is a sum over the batch.
      shapes: returns the shapes of the outputs, given the inputs.
      attributes: numbers that are fixed when the computation is compiled.
    """

    name: str
    inputs: str
    outputs: str
    shapes: Callable[..., tuple[tuple[int, ...], ...]]
    attributes: dict[str, Any]

    def __call__(self, *arrays: Operand) -> Results:
        outputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes(*arrays)]
        call = jax.ffi.ffi_call(_target(self.name), outputs, vmap_method="sequential")
        return tuple(call(*arrays, **self.attributes))


def lowered(plain: Callable[..., Results], kernel: Kernel, *arrays: Operand) -> Results:
    """Apply `kernel` to the arrays where that is compiled for a CPU and kernels are built and fit; otherwise `plain`.

    Kernels fit float32 and bfloat16, convolutions of 3x3, output channels in multiples of 32, and input channels
    that are one or a multiple of 32. They do not fit where the caller has divided the batch over devices, as in
    `shard_map`.
    """
    divided_already = AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types
    if divided_already or not (_fit(*arrays) and load()):
        return plain(*arrays)
    in_float32 = _divided(kernel, len(arrays[0]))
    if all(array.dtype != jnp.bfloat16 for array in arrays):
        return lax.platform_dependent(*arrays, cpu=in_float32, default=plain)
    dtypes = [result.dtype for result in jax.eval_shape(plain, *arrays)]

    def cpu(x: Operand, weights: Operand, *others: Operand) -> Results:
        """Compute in float32; inputs and outputs may be bfloat16."""
        results = in_float32(*map(_widened, (x, weights.astype(x.dtype), *others)))
        return tuple(result.astype(dtype) for result, dtype in zip(results, dtypes, strict=True))

    return lax.platform_dependent(*arrays, cpu=cpu, default=plain)


def _widened(array: Operand) -> Operand:
    return array.astype(jnp.float32) if array.dtype == jnp.bfloat16 else array


def _fit(x: Operand, weights: Operand, *others: Operand) -> bool:
    channels_in, channels = x.shape[3], weights.shape[3]
    return (
        x.size > 0
        and all(array.dtype in (jnp.float32, jnp.bfloat16, jnp.uint32) for array in (x, weights, *others))
        and all(array.shape == (channels,) for array in others if array.ndim == 1)
        and weights.shape == (3, 3, channels_in, channels)
        and channels % 32 == 0
        and (channels_in == 1 or channels_in % 32 == 0)
    )


def _divided(kernel: Kernel, batch: int) -> Callable[..., Results]:
    """Apply `kernel` to each device's part of the batch: the compiler cannot look into the kernel to divide it."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or batch % mesh.size:
        return lambda *arrays: kernel(*arrays)
    specs = {"n": PartitionSpec(mesh.axis_names), "-": PartitionSpec()}

    def on_one_device(*arrays: Operand) -> Results:
        results = zip(kernel(*arrays), kernel.outputs, strict=True)
        return tuple(result if kind == "n" else lax.psum(result, mesh.axis_names) for result, kind in results)

    inputs, outputs = (tuple(specs[kind] for kind in kinds) for kinds in (kernel.inputs, kernel.outputs))
    return jax.shard_map(on_one_device, in_specs=inputs, out_specs=outputs, check_vma=False)


@cache
def load() -> bool:
    """Load the built kernels and register them with XLA.

    Returns:
      Whether there are intact kernels to call, and PNEUMOJAX_KERNELS is not "off".
    """
    if os.environ.get("PNEUMOJAX_KERNELS", "").lower() in ("off", "0", "false"):
        return False
    try:
        if (library := built()) is None:
            return False
        functions = ctypes.CDLL(str(library))
    except OSError:  # for example, the compiler's C++ library is newer than the system's; building again reports it
        return False
    for name, symbol in SYMBOLS.items():
        jax.ffi.register_ffi_target(_target(name), jax.ffi.pycapsule(getattr(functions, symbol)), platform="cpu")
    return True


def built() -> Path | None:
    """Return the path of the built library; None where there is none, or its content has changed since."""
    for library in libraries().glob(f"{_stem()}-*.so"):
        if library.is_file() and library == library_path(library.read_bytes()):
            return library
    return None


def library_path(content: bytes) -> Path:
    """Return the path at which a library of this content is kept.

    The name depends on the sources and the machine, since different machines may share a home folder. It depends on
    the content, since loading a damaged library would end the process.
    """
    return libraries() / f"{_stem()}-{hashlib.sha256(content).hexdigest()[:16]}.so"


def libraries() -> Path:
    """Return the folder of built libraries, in the user's cache folder."""
    return Path(folder("")) / "kernels"


def _stem() -> str:
    paths = (*SOURCE.parent.glob("*.cc"), *SOURCE.parent.glob("*.h"), SOURCE.with_name("build.py"))
    sources = (path.read_bytes() for path in sorted(paths))
    target = (version("jaxlib"), host.cpu_flags() or platform.processor(), *platform.libc_ver())
    parts = (*sources, *(part.encode() for part in target))
    return "block-" + hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def _target(name: str) -> str:
    return f"pneumojax_{name}"
