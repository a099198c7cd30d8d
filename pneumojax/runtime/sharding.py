"""The devices of a job as one mesh, and how arrays lie on it."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pneumojax.runtime.errors import UserError


class Layout(NamedTuple):
    """Where arrays lie.

    Attributes:
      mesh: all devices on one axis, `data`.
      batch_sharded: of arrays (batch, ...), divided over the devices by their first axis.
      steps_batch_sharded: of arrays (steps, batch, ...), divided over the devices by their second axis.
      replicated: of arrays that are whole on every device.
    """

    mesh: jax.sharding.Mesh
    batch_sharded: NamedSharding
    steps_batch_sharded: NamedSharding
    replicated: NamedSharding


def compute_deterministically() -> None:
    """Make XLA compute the same bits each time on GPUs too. Call this before the first computation.

    XLA then adds in a fixed order, and does not choose algorithms by what is fastest at the moment, or was in an
    earlier run.
    """
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()


def require_devices() -> None:
    """Find the devices.

    Raises:
      UserError: there are none of the kind that JAX_PLATFORMS names.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a message
        asked = f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: " if os.environ.get("JAX_PLATFORMS") else ""
        reason = str(error).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0] or "or the package for it"
        raise UserError(
            f"{asked}JAX finds no such device ({reason}): unset JAX_PLATFORMS, or install the package for it, such as"
            ' pip install "pneumojax[cuda]"'
        ) from None


def devices_line() -> str:
    """Return the devices of all processes on a line, such as "8 of NVIDIA H100 80GB HBM3"."""
    counts = Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{count} of {kind}" if count > 1 else kind for kind, count in counts.items())


def layout(devices: Sequence[jax.Device] | None = None) -> Layout:  # pyright: ignore[reportInvalidTypeForm]: a nanobind class
    """Lay `devices` out on one axis in their order; by default all devices, process after process."""
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    specs = (PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec())
    return Layout(mesh, *(NamedSharding(mesh, spec) for spec in specs))


def own_rows(layout: Layout, batch_size: int) -> slice:
    """Return the rows of a batch that this process feeds to its devices of the layout.

    Raises:
      UserError: the batch cannot be divided evenly over the devices, or the devices over the processes.
    """
    if batch_size % layout.mesh.size:
        raise UserError(f"a batch of {batch_size} cannot be divided over {layout.mesh.size} devices: choose a multiple")
    owners = [device.process_index for device in layout.mesh.devices.flat]
    if len({owners.count(owner) for owner in owners}) > 1:
        raise UserError("the processes of the job have different numbers of devices: start them alike")
    processes = sorted(set(owners))
    rows = batch_size // len(processes)
    place = processes.index(jax.process_index())
    return slice(place * rows, (place + 1) * rows)


def place(layout: Layout, rows: np.ndarray) -> jax.Array:
    """Place the job's batch on the devices; each process gives its own rows, (rows, ...)."""
    return jax.make_array_from_process_local_data(layout.batch_sharded, rows)


def place_whole(sharding: NamedSharding, array: np.ndarray) -> jax.Array:
    """Place the job's array on the devices; every process has the whole array and gives what lies on its devices."""
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
