"""What --mode=benchmark left in its workdirs, as studies read it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumojax.runtime.errors import UserError
from pneumojax.runtime.workdir import BENCHMARK


def read_benchmarks(workdirs: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the benchmarks of several workdirs.

    Raises:
      UserError: a workdir holds no benchmark.
    """
    for workdir in workdirs:
        if not (workdir / BENCHMARK).is_file():
            raise UserError(f"{workdir} holds no {BENCHMARK}: give the workdirs of --mode=benchmark")
    return [json.loads((workdir / BENCHMARK).read_text()) for workdir in workdirs]
