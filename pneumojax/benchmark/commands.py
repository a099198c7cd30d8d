"""Whole commands on many files: the files, and what a command takes."""

import subprocess
import threading
from itertools import cycle, islice
from pathlib import Path

from pneumojax.data.sources.folders import open_folders


def link(source: Path, target: Path, count: int) -> None:
    """Makes class folders of `count` images, the same ones again and again under other names."""
    opened = open_folders(source)
    for number, record in enumerate(islice(cycle(opened.records), count)):
        link = target / ("NORMAL", "PNEUMONIA")[record.label] / f"{number:06d}.jpeg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(opened.root / record.id)


def watched(command: list[str], every: float = 0.2) -> tuple[str, list[int]]:
    """What a command prints, and the memory (bytes) that it and its children shared out among them, at each look.

    That is `every` so many seconds; each look takes some milliseconds of a core.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    looks, ended = [], threading.Event()

    def watch():
        while not ended.wait(every):
            looks.append(sum(map(_memory, _family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed = process.communicate()[0]
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command} ended with status {process.returncode}")
    return printed, looks


def _family(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(child))]


def _memory(pid):
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith("Pss:"))
