"""Measure inference on a CPU beside ONNX Runtime and OpenVINO, which compute the exported graph of the same model.

  python -m studies.runtimes [--models=m1,m2,m3] [--batches=1,32] [--rounds=5] [--seconds=2] [--sides=...]

Each side is a process of its own, and they take turns. `pneumojax` is the step of evaluation: logits and features.
`pneumojax-load` is `pneumojax.load(...).predict` of a film in memory, at batch 1. The runtimes compute all outputs of
the graph, with its map and OOD score; with "-logit" they compute the logit alone. Where a package is missing, its cells
stay empty.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from typing import Any

from pneumojax.benchmark.compare import side_by_side
from pneumojax.benchmark.plan import Plan, plan
from pneumojax.benchmark.tasks import INFER, OURS, Side, Task
from pneumojax.benchmark.worker_client import started
from pneumojax.runtime import config as configs
from studies import study

_MODULE = "studies.runtime_sides"
LOAD = "pneumojax-load"
SIDES = {OURS: Side(_MODULE, "evaluator"), LOAD: Side(_MODULE, "load")} | {
    variant: Side(_MODULE, variant)
    for runtime in ("onnxruntime", "openvino")
    for variant in (runtime, f"{runtime}-logit")
}


def measure(model: str, batch: int, size: int, sides: Sequence[str], of: Plan) -> dict[str, Any]:
    """Return the row of a model and a batch size: `side_by_side`'s figures."""
    task = Task(model, INFER, batch, size, "float32", 1)
    chosen = [side for side in sides if side != LOAD or batch == 1]
    with ExitStack() as stack:
        workers = {side: stack.enter_context(started(SIDES[side], platform="cpu")) for side in chosen}
        found = side_by_side(workers, dict.fromkeys(workers, task), of, {}, "cpu")
    return {"model": model.upper(), "batch_size": batch, "at": f"batch {batch}"} | found


def _rows(models: Sequence[str], batches: Sequence[int], **given: Any) -> Iterator[Mapping[str, Any]]:
    for model, batch in product(models, batches):
        yield measure(model, batch, **given)


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("--models", type=study.names, default=["m1", "m2", "m3"], help="networks, such as m1,m2")
    parser.add_argument("--batches", type=study.numbers, default=[1, 32], help="images in a batch, such as 1,32")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn")
    parser.add_argument("--size", type=int, default=150, help="image size, px")
    parser.add_argument("--sides", type=study.names, default=list(SIDES), help=f"of {', '.join(SIDES)}")
    given = parser.parse_args(argv)
    if unknown := set(given.sides) - set(SIDES):
        parser.error(f"--sides has no {', '.join(sorted(unknown))}: choose of {', '.join(SIDES)}")
    fields = {"benchmark.rounds": given.rounds, "benchmark.seconds": given.seconds}
    of = plan(configs.with_fields(configs.load("m1"), fields))
    rows = list(_rows(given.models, given.batches, size=given.size, sides=given.sides, of=of))
    study.finish("runtimes", argv, {"rows": rows}, ["runtimes", "runtimes-ways"], given.output)


if __name__ == "__main__":
    study.run(main)
