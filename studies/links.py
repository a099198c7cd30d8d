"""Measure training steps of several processes over links of a given rate, beside the bytes that a ring sends.

  python -m studies.links [--processes=2,4,8] [--gbit=1,10] [--model=m1] [--epochs=3] [--rounds=3]

Each process has a network namespace of its own on this machine. Its link to the others' bridge is shaped in both
directions, by the token bucket of Linux's traffic control. As root, with iproute2. All processes share the cores, so
that computing takes as long on any link: what a link adds is the difference to the same job without shaping, in turns.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from pneumojax.runtime import run_log
from pneumojax.runtime.errors import UserError
from studies import study, traffic

BATCH, SIZE = 32, 150
_BRIDGE = "pneumojax"
_PORT = 7_733
_HOSTS = Path("/etc/netns")  # from where `ip netns exec` takes files of a namespace
_BUCKET = ("burst", "256kb", "latency", "20ms")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _name(index: int) -> str:
    return f"pneumo{index}"


def _address(index: int) -> str:
    return f"10.77.0.{index + 1}"


@contextmanager
def network(count: int) -> Iterator[None]:
    """Lay `count` namespaces around a bridge, and remove them afterwards.

    Raises:
      UserError: they cannot be made here.
    """
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        raise UserError("namespaces need root and iproute2's ip and tc: install iproute2, and run as root")
    hosts = "127.0.0.1 localhost\n" + "".join(f"{_address(index)} {_name(index)}\n" for index in range(count))
    _remove(count)  # what a run that was killed has left
    try:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        _ip("link", "set", _BRIDGE, "up")
        for index in range(count):
            name = _name(index)
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", _BRIDGE, "up")
            _ip("-n", name, "address", "add", f"{_address(index)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", name, "link", "set", device, "up")
            (_HOSTS / name).mkdir(parents=True)
            (_HOSTS / name / "hosts").write_text(hosts)
        yield
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode().strip().partition("\n")[0]
        raise UserError(f"{' '.join(error.cmd)} failed ({reason}): namespaces need a kernel that has them") from None
    finally:
        _remove(count)


def _remove(count: int) -> None:
    for index in range(count):
        # The link first: a namespace that is deleted holds its own for a while.
        subprocess.run(["ip", "link", "delete", _name(index)], capture_output=True)
        subprocess.run(["ip", "netns", "delete", _name(index)], capture_output=True)
        shutil.rmtree(_HOSTS / _name(index), ignore_errors=True)
    subprocess.run(["ip", "link", "delete", _BRIDGE], capture_output=True)


def shape(count: int, gbit: int | None) -> None:
    """Limit what each process sends and receives; None: no limit."""
    for index in range(count):
        name = _name(index)
        for place in (["-n", name, "qdisc"], ["qdisc"]):
            device = "eth0" if place[0] == "-n" else name
            subprocess.run(["tc", *place, "delete", "dev", device, "root"], capture_output=True)
            if gbit:
                limit = ["root", "tbf", "rate", f"{gbit}gbit", *_BUCKET]
                subprocess.run(["tc", *place, "add", "dev", device, *limit], check=True, capture_output=True)


def step_s(given: Namespace, count: int, workdir: Path) -> float:
    """Train with a process in each namespace; return the seconds of a step in the last epoch."""
    options = [f"--config={given.model}", f"--workdir={workdir}", f"--config.epochs={given.epochs}"]
    options += [f"--config.batch_size={BATCH}", f"--config.model.image_size={SIZE}", f"--processes={count}"]
    options += ["--data=phantom", f"--coordinator={_address(0)}:{_PORT}"]
    jobs = []
    for index in range(count):
        name = _name(index)
        command = [sys.executable, "-m", "pneumojax.main", *options, f"--process={index}"]
        inside = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
        jobs.append(subprocess.Popen([*inside, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    printed = [job.communicate()[0] for job in jobs]
    for job, text in zip(jobs, printed, strict=True):
        if job.returncode:
            raise SystemExit(f"a job of {count} processes failed: {text.strip().splitlines()[-1:]}")
    return BATCH / run_log.read(epath.Path(workdir))["train"][given.epochs]["images_per_second"]


def measured(given: Namespace, count: int, scratch: Path) -> list[dict[str, Any]]:
    """Return a row for each link, measured in turns."""
    links = [None, *given.gbit]
    times: dict[int | None, list[float]] = {gbit: [] for gbit in links}
    with network(count):
        for turn in range(-1, given.rounds):  # the first compiles and prepares, so that no turn does
            for gbit in links if turn >= 0 else [None]:
                shape(count, gbit)
                seconds = step_s(given, count, scratch / f"{count}-{gbit}-{turn}")
                times[gbit] += [seconds] * (turn >= 0)
    sent = traffic.ring_bytes(given.model, SIZE, count)
    rows = []
    for gbit in links:
        added = [1e3 * (with_link - without) for with_link, without in zip(times[gbit], times[None], strict=True)]
        row = {"model": given.model.upper(), "processes": count, "gbit": gbit, "sent_mb": sent / 1e6}
        row |= {"step_ms": 1e3 * statistics.median(times[gbit]), "added_ms": study.spread(added) if gbit else None}
        rows.append(row | {"ring_ms": 8e-6 * sent / gbit if gbit else None})
        print(rows[-1], flush=True)
    return rows


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--processes", type=study.numbers, default=[2, 4, 8], help="of a job")
    parser.add_argument("--gbit", type=study.numbers, default=[1, 10], help="rates of the links, Gbit/s")
    parser.add_argument("--model", default="m1", help="a config, such as m1")
    parser.add_argument("--epochs", type=int, default=3, help="of each training; the last is timed")
    parser.add_argument("--rounds", type=int, default=3, help="turns")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row for count in given.processes for row in measured(given, count, Path(scratch))]
    study.finish("links", argv, {"rows": rows}, ["links"], given.output)


if __name__ == "__main__":
    study.run(main)
