"""Run whole commands on many files, and watch their memory."""

import subprocess
import threading
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from pneumojax.data.source import Source
from pneumojax.data.sources.folders import open_folders
from pneumojax.runtime.errors import UserError


def class_folders(folder: Path) -> Source:
    """Open class folders.

    Raises:
      UserError: there are none.
    """
    opened = open_folders(folder)
    if opened is None:
        raise UserError(f"no class folders in {folder}: give a folder that has NORMAL and PNEUMONIA")
    return opened


def labelled_paths(folder: Path) -> list[tuple[Path, int | None]]:
    """List the images of class folders, each with its label."""
    opened = class_folders(folder)
    root = opened.root or folder
    return [(root / record.id, record.label) for record in opened.records]


def link(source: Path, target: Path, count: int) -> None:
    """Fill class folders with `count` links to the images of other class folders, repeating them as needed."""
    for number, (image, label) in enumerate(islice(cycle(labelled_paths(source)), count)):
        path = target / ("PNEUMONIA" if label else "NORMAL") / f"{number:06d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(image.absolute())


class Memory(NamedTuple):
    """Bytes that a command and its children hold, where shared pages count once.

    Attributes:
      total: all of them.
      own: without the pages of files, which the system drops where memory is short.
    """

    total: int
    own: int


def watched(command: list[str], every: float = 0.2, statuses: Sequence[int] = (0,)) -> tuple[str, list[Memory]]:
    """Run a command and watch its memory.

    Args:
      command: the program and its arguments.
      every: seconds from one look at the memory to the next; a look takes some milliseconds of a core.
      statuses: what it may end with.

    Returns:
      What it printed; and its memory at each look.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    looks: list[Memory] = []
    ended = threading.Event()

    def watch() -> None:
        looks.append(_family_memory(process.pid))
        while not ended.wait(every):
            looks.append(_family_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    printed = process.communicate()[0]
    ended.set()
    watcher.join()
    if process.returncode not in statuses:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return printed, looks


def _family_memory(pid: int) -> Memory:
    of_each = [_memory(member) for member in _family(pid)]
    return Memory(sum(memory.total for memory in of_each), sum(memory.own for memory in of_each))


def _family(pid: int | str) -> list[int | str]:
    """A process and all its descendants; Linux only."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(child))]


def _memory(pid: int | str) -> Memory:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory(0, 0)
    sizes = {name: 1024 * int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
    return Memory(sizes.get("Pss", 0), sizes.get("Pss", 0) - sizes.get("Pss_File", 0))
