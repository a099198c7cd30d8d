"""The devices of a job as one mesh, and how arrays lie on it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pneumojax.errors import UserError


class Layout(NamedTuple):
    """Where arrays go: batches are divided over the mesh's axis `data`, all else is on every device.

    `stacked` is of several batches, (steps, batch).
    """

    mesh: jax.sharding.Mesh
    divided: NamedSharding
    stacked: NamedSharding
    everywhere: NamedSharding


def layout(devices: Sequence[jax.Device] | None = None) -> Layout:
    """`devices`, by default all of all processes, on one axis."""
    devices = jax.devices() if devices is None else devices
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    specs = (PartitionSpec("data"), PartitionSpec(None, "data"), PartitionSpec())
    return Layout(mesh, *(NamedSharding(mesh, spec) for spec in specs))


def own_rows(layout: Layout, batch_size: int) -> slice:
    """The rows of a job's batch that this process feeds.

    Raises:
      UserError: the batch cannot be divided evenly over the devices.
    """
    if batch_size % layout.mesh.size:
        raise UserError(f"a batch of {batch_size} cannot be divided over {layout.mesh.size} devices: choose a multiple")
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def anywhere(*flags: bool) -> tuple[bool, ...]:
    """Each flag, whether any process of the job raises it: what all processes then do alike."""
    if jax.process_count() == 1:
        return flags
    return tuple(multihost_utils.process_allgather(np.array(flags)).any(0).tolist())


def place(layout: Layout, rows: np.ndarray) -> jax.Array:
    """The job's batch, of which each process gives its own rows."""
    return jax.make_array_from_process_local_data(layout.divided, rows)


def place_whole(sharding: NamedSharding, array: np.ndarray) -> jax.Array:
    """The job's array, of which every process has the whole and gives what lies on its devices."""
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
