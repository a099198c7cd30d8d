"""The steps of the study of a GPU (gpu.py), the most telling first. Each runs in a process of its own, by this module:

  python -m studies.gpu_steps STEP --folder=FOLDER --seconds=S [--data=FOLDER] [--tiny]

It writes each row as soon as it is measured, so that a step that is killed leaves what it has.
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

from studies.gpu_given import PHANTOM, TINY, WHOLE, Given, rows_path

MARGIN = 3.0  # seconds before its limit in which a step should end by itself


class Step(NamedTuple):
    """One step.

    Attributes:
      function: dotted name of the function that yields its rows, given a `Given`.
      limit: seconds that it may take.
      summary: what it does.
    """

    function: str
    limit: float
    summary: str


STEPS = {
    "card": Step("studies.gpu_card.card", 60, "the card, its driver, versions, and memory"),
    "correctness": Step("studies.gpu_correctness.correctness", 100, "steps on the GPU beside the same on the CPU"),
    "blocks": Step("studies.gpu_speed.blocks", 75, "the fused block beside the plain one"),
    "rates": Step("studies.gpu_speed.rates", 140, "the card's peaks, and M1's steps at each batch size and precision"),
    "children": Step("studies.gpu_runs.children", 150, "M1 by the recommended recipe, from images to the report"),
    "resume": Step("studies.gpu_runs.resume", 100, "a run of 450 steps, killed and resumed, beside an undisturbed one"),
    "peers": Step("studies.gpu_speed.peers", 150, "M1's steps beside PyTorch's"),
    "determinism": Step("studies.gpu_speed.determinism", 45, "what equal bits in each run cost"),
    "paper": Step("studies.gpu_runs.paper", 400, "M1 by the paper's recipe, 100 epochs"),
}


def main(argv: list[str]) -> None:
    """Run the step that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=list(STEPS))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--data", default=PHANTOM)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args(argv)
    deadline = time.monotonic() + max(asked.seconds - MARGIN, 0)
    given = Given(asked.folder, asked.data, TINY if asked.tiny else WHOLE, deadline)
    module, _, function = STEPS[asked.step].function.rpartition(".")
    with rows_path(asked.folder, asked.step).open("w") as file:
        for row in getattr(importlib.import_module(module), function)(given):
            print(json.dumps(row), file=file, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
