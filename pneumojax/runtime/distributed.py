"""The processes of a job: joined in one place, where flags or a scheduler ask for it, and left."""

import os
import re
import secrets
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, NoReturn

from etils import epath

from pneumojax.runtime.errors import UserError

JOIN_S = 300  # that the processes of a job wait for each other to start
# Where a scheduler that JAX knows says how many processes it has started. Not SLURM_NTASKS: sbatch's own shell has it.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
_LISTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
_TRACES = ("gloo", "nccl", "coordination", "heartbeat", "barrier")  # in what collectives say when a process is gone


class NotJoined(UserError):
    """The job's other processes did not come. This process's flags may be right, so the same command may work."""


def requested(coordinator: str | None, processes: str | None, process: int | None) -> dict[str, Any] | None:
    """Return the arguments of `join`; None where this process is the whole job.

    The flags are HOST:PORT where the first process listens; how many there are, or "auto" where JAX finds all three;
    and the index of this one, from 0. Without any, SLURM (srun), Open MPI and Cloud TPU's Kubernetes say in the
    environment that there are others, and JAX reads there who they are.

    Raises:
      UserError: the flags do not fit together.
    """
    if coordinator is None and processes is None and process is None:
        return {} if _started_by_scheduler() else None
    if processes == "auto":
        if coordinator is not None or process is not None:
            raise UserError("--processes=auto finds --coordinator and --process itself: leave them out")
        return {}
    if coordinator is None or processes is None or process is None:
        raise UserError("--coordinator=HOST:PORT, --processes=NUMBER and --process=INDEX go together: give all three")
    if not processes.isdecimal() or not 0 <= process < int(processes):
        raise UserError(f"--process={process} is none of --processes={processes}: count from 0")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--coordinator={coordinator} is not HOST:PORT")
    if int(processes) == 1:
        return None
    job = {"coordinator_address": coordinator, "num_processes": int(processes), "process_id": process}
    return job | {"cluster_detection_method": "deactivate"}


def join(job: dict[str, Any], seconds: int = JOIN_S) -> None:
    """Join the other processes of the job that `requested` returned, before JAX looks for devices.

    Raises:
      UserError: JAX finds no job, or cannot listen; `NotJoined`: the others do not come in time. Call `leave` then.
    """
    import jax  # not above: what reads images needs none

    if job.get("process_id") == 0 and "coordinator_address" in job:
        _require_port(int(job["coordinator_address"].rpartition(":")[2]))
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself: see `signals`
    failures = []

    def begin() -> None:
        try:
            # The first process writes the report when the others have nothing left to do.
            jax.distributed.initialize(
                **job | _own_devices(job), initialization_timeout=seconds + 60, shutdown_timeout_seconds=3600
            )
            meet()  # at once: what connects devices, the first time, waits for half a minute and not longer
        except Exception as error:
            failures.append(error)

    # In a thread: this one handles signals meanwhile, and JAX would end the process after waiting in vain.
    joining = threading.Thread(target=begin, daemon=True)
    joining.start()
    joining.join(seconds)
    if joining.is_alive():
        who = "" if not job else " as process {process_id} of {num_processes}, coordinator {coordinator_address}"
        raise NotJoined(
            f"the other processes of the job did not come within {seconds} s{who.format_map(job)}: find out what ended"
            " them, or start again"
        )
    if failures:
        reason = str(failures[0]).partition("\n")[0]
        if not job and "should be defined" in reason:  # as JAX says that it has found no cluster
            reason = (
                "JAX finds no SLURM step, Open MPI 4 or Cloud TPU here: give --coordinator=HOST:PORT --processes=NUMBER"
                " --process=INDEX, or leave --processes out for one process"
            )
        raise UserError(f"the processes of the job cannot be joined: {reason}")


def _require_port(port: int) -> None:
    """Refuse a port that another program listens on: JAX would crash."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6).close()
    except OSError as error:
        raise UserError(
            f"cannot listen on port {port} ({os.strerror(error.errno or 0)}): choose another in --coordinator"
        ) from None


def _own_devices(job: dict[str, Any]) -> dict[str, Any]:
    """Return further arguments for a process that a scheduler started: JAX would take one device of many.

    That leaves the others idle where the process is alone on its machine, and fails where the scheduler shows it one
    device alone.
    """
    if job or "JAX_LOCAL_DEVICE_IDS" in os.environ:
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
    """Whether this process writes what a job has only once."""
    return not several() or sys.modules["jax"].process_index() == 0


def anywhere(*conditions: bool) -> tuple[bool, ...]:
    """Return for each condition whether it holds in any process of the job, so that all processes act alike."""
    if not several():
        return conditions
    import numpy as np
    from jax.experimental import multihost_utils

    return tuple(multihost_utils.process_allgather(np.array(conditions)).any(0).tolist())


def meet() -> None:
    """Wait until every process of the job is here."""
    anywhere(False)


def all_see(folder: epath.Path) -> bool:
    """Whether all processes of the job see one folder, not one on each machine."""
    if not several():
        return True
    import numpy as np
    from jax.experimental import multihost_utils

    numbers = multihost_utils.process_allgather(np.array(secrets.randbits(31), np.int32))
    sign = folder / f".seen-{numbers[0]}"
    with suppress(OSError):  # then nobody sees it
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
    """Whether this is the error that a process meets when another one of its job has ended."""
    message = f"{type(error).__name__} {error}".lower()
    return several() and any(trace in message for trace in _TRACES)


def leave(status: int) -> NoReturn:
    """End this process; one of a job at once: Python's own end would wait for the others, which wait for this one."""
    if status and _joining():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _started_by_scheduler() -> bool:
    counts = [os.environ.get(name, "1") for name in _COUNTS]
    lists = [os.environ.get(name, "") for name in _LISTS]
    return any(count.isdecimal() and int(count) > 1 for count in counts) or any("," in hosts for hosts in lists)
