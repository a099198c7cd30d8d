"""The devices of a job as one mesh, and how arrays lie on it."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pneumojax.errors import UserError

_EQUAL_BITS = "--xla_gpu_deterministic_ops=true"


class Layout(NamedTuple):
    """Where arrays go: batches are divided over the mesh's axis `data`, all else is on every device.

    `stacked` is of several batches, (steps, batch).
    """

    mesh: jax.sharding.Mesh
    divided: NamedSharding
    stacked: NamedSharding
    everywhere: NamedSharding


def compute_equal_bits() -> None:
    """Has XLA compute the same bits each time on GPUs too. To be called before the first computation.

    It then adds in a fixed order, and does not choose algorithms by what is fastest at the moment, or was in a run
    before.
    """
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_EQUAL_BITS}".strip()


def told() -> str:
    """The devices of all processes, such as "8 of NVIDIA H100 80GB HBM3"."""
    counts = Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{count} of {kind}" if count > 1 else kind for kind, count in counts.items())


def layout(devices: Sequence[jax.Device] | None = None) -> Layout:
    """`devices`, by default all of all processes, process after process, on one axis in their order."""
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
    specs = (PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec())
    return Layout(mesh, *(NamedSharding(mesh, spec) for spec in specs))


def own_rows(layout: Layout, batch_size: int) -> slice:
    """The rows of a batch that this process feeds to its devices of the layout.

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
    """The job's batch, of which each process gives its own rows."""
    return jax.make_array_from_process_local_data(layout.divided, rows)


def place_whole(sharding: NamedSharding, array: np.ndarray) -> jax.Array:
    """The job's array, of which every process has the whole and gives what lies on its devices."""
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
