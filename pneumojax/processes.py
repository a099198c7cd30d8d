"""The processes of a job: joined in one place, where flags or a scheduler ask for it, and parted from."""

import os
import re
import secrets
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from etils import epath

from pneumojax.errors import UserError

AUTO = "auto"
LOST = 76  # exit status of a process that had to end since another did, whose own status tells why
JOIN_S = 300  # that the processes of a job wait for each other to start
# Where a scheduler that JAX knows says how many processes it has started. Not SLURM_NTASKS: sbatch's own shell has it.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
_SLICES = "MEGASCALE_NUM_SLICES"
_TRACES = ("gloo", "nccl", "coordination", "heartbeat", "barrier")  # in what collectives say when a process is gone


class NotJoined(UserError):
    """The job's other processes did not come: not for what this one was told, so the same command may do."""


def asked(coordinator: str | None, processes: str | None, process: int | None) -> dict | None:
    """What `join` is to be given; None where this process is the whole job.

    Without any of them, SLURM (srun), Open MPI and Cloud TPU's Kubernetes say in the environment that there are others,
    and JAX reads there who they are.

    Args:
      coordinator: host and port where the first process listens.
      processes: how many there are, or "auto": JAX is to find out all three.
      process: which one this is, from 0.

    Raises:
      UserError: they do not fit together.
    """
    if (coordinator, processes, process) == (None, None, None):
        return {} if _started_by_scheduler() else None
    if processes == AUTO:
        if coordinator is not None or process is not None:
            raise UserError("--processes=auto finds --coordinator and --process itself: leave them out")
        return {}
    if None in (coordinator, processes, process):
        raise UserError("--coordinator=HOST:PORT, --processes=NUMBER and --process=INDEX go together")
    if not processes.isdecimal() or not 0 <= process < int(processes):
        raise UserError(f"--process={process} is none of --processes={processes}: they count from 0")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator} is not HOST:PORT")
    if int(processes) == 1:
        return None
    told = {"coordinator_address": coordinator, "num_processes": int(processes), "process_id": process}
    return told | {"cluster_detection_method": "deactivate"}


def join(given: dict, seconds: int = JOIN_S) -> None:
    """Joins the job's other processes, before JAX looks for devices.

    Args:
      given: what `asked` gives.
      seconds: how long to wait for the others.

    Raises:
      UserError: JAX finds no job, or cannot listen; `NotJoined`: the others do not come. To be followed by `leave`.
    """
    import jax  # not above: what reads images needs none

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself: see `interrupt`
    failures = []

    def begin():
        try:
            # The first process writes the report when the others have nothing left to do.
            jax.distributed.initialize(
                **given | _own_devices(given), initialization_timeout=seconds + 60, shutdown_timeout_seconds=3600
            )
            meet()  # at once: what connects devices, the first time, waits for half a minute and not longer
        except Exception as error:
            failures.append(error)

    # In a thread, since this one heeds signals meanwhile; and JAX, where it has waited in vain, would end the process.
    joining = threading.Thread(target=begin, daemon=True)
    joining.start()
    joining.join(seconds)
    if joining.is_alive():
        who = "" if not given else " as process {process_id} of {num_processes}, coordinator {coordinator_address}"
        raise NotJoined(
            f"the other processes of the job did not come within {seconds} s{who.format_map(given)}: see what ended"
            " them, or start anew"
        )
    if failures:
        told = str(failures[0]).partition("\n")[0]
        if not given and "should be defined" in told:  # as JAX says that it has found no cluster
            told = (
                "JAX finds no SLURM step, Open MPI 4 or Cloud TPU here: give --coordinator=HOST:PORT --processes=NUMBER"
                " --process=INDEX, or leave --processes out for one process"
            )
        raise UserError(f"the processes of the job cannot be joined: {told}")


def _own_devices(given: dict) -> dict:
    """What `join` gives beside `given`, where a scheduler started this process: then JAX takes one device of many.

    That leaves the others idle where the process is alone on its machine, and is not there where the scheduler lets it
    see one alone.
    """
    if given or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return {}
    per_machine = os.environ.get("SLURM_STEP_TASKS_PER_NODE", os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", ""))
    alone = re.fullmatch(r"1(\(x\d+\))?", per_machine)
    bound = re.fullmatch(r"[^,]+", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return {"local_device_ids": []} if alone or bound else {}  # none: it takes all that it sees


def several() -> bool:
    """Whether this is one process of several."""
    return _joining() and sys.modules["jax"].process_count() > 1


def _joining() -> bool:
    jax = sys.modules.get("jax")  # without which there is no job
    return jax is not None and jax.distributed.is_initialized()


def first() -> bool:
    """Whether this process is the one that writes what a job has but once."""
    return not several() or sys.modules["jax"].process_index() == 0


def anywhere(*flags: bool) -> tuple[bool, ...]:
    """Each flag, whether any process of the job raises it: what all processes then do alike."""
    if not several():
        return flags
    import numpy as np
    from jax.experimental import multihost_utils

    return tuple(multihost_utils.process_allgather(np.array(flags)).any(0).tolist())


def meet() -> None:
    """Waits until every process of the job is here."""
    anywhere(False)


def all_see(folder: epath.Path) -> bool:
    """Whether it is one folder that all processes of the job see, and not one on each machine."""
    if not several():
        return True
    import numpy as np
    from jax.experimental import multihost_utils

    numbers = multihost_utils.process_allgather(np.array(secrets.randbits(31), np.int32))
    sign = folder / f".seen-{numbers[0]}"
    with suppress(OSError):  # it is not seen then
        if first():
            folder.mkdir(parents=True, exist_ok=True)
            sign.touch()
    meet()
    [unseen] = anywhere(not sign.exists())
    with suppress(OSError):
        if first():
            sign.unlink()
    return not unseen


def lost_another(error: BaseException) -> bool:
    """Whether this is what a process meets when another one of its job has ended."""
    told = f"{type(error).__name__} {error}".lower()
    return several() and any(trace in told for trace in _TRACES)


def leave(status: int) -> NoReturn:
    """Ends this process; one of a job at once, since Python's end would wait for the others, who wait for this one."""
    if status and _joining():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _started_by_scheduler() -> bool:
    counts = [os.environ.get(name, "1") for name in (*_COUNTS, _SLICES)]
    lists = [os.environ.get(name, "") for name in _LISTS]
    return any(count.isdecimal() and int(count) > 1 for count in counts) or any("," in hosts for hosts in lists)
