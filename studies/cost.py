"""Count what the models cost, and compare measured steps with the roofline.

  python -m studies.cost WORKDIR... [--output=studies/results/cost.json]

The workdirs are those of --mode=benchmark. Counted are operations, bytes and parameters, at several image sizes and
numbers of devices. The roofline is the rate at which a step takes as long as its operations or its bytes need,
whichever is longer; a machine's rates are those that --mode=benchmark measured on it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pneumojax.benchmark import flops
from pneumojax.benchmark.tasks import INFER, TRAIN
from pneumojax.data.loader import steps_per_epoch
from pneumojax.models.architectures import FAMILY
from pneumojax.runtime.errors import UserError
from studies import study, traffic
from studies.benchmarks import read_benchmarks

SIZE, BATCH, EPOCHS = 150, 32, 100  # the paper's image size and epochs; it does not print the batch size
PAPER_IMAGES, PAPER_SECONDS = 7_599, 86_400  # trained "over a period 1 day"
CHEXPERT_IMAGES = 224_316
SIZES, DEVICES = (150, 224, 320, 512), (1, 8, 64, 256)
TABLES = (
    "cost-counted", "cost-growth", "cost-ring", "cost-h100", "cost-rates", "cost-roofline", "cost-paper",
    "cost-chexpert",
)  # fmt: skip


class Rates(NamedTuple):
    """The most that a device does: `flops` and `bytes` of its memory a second; a value takes `value_bytes`."""

    flops: float
    bytes: float
    value_bytes: int = 4


VALUE_BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2}
# NVIDIA's data sheet of the H100 SXM, dense: without its doubling for sparse matrices.
H100 = {"bfloat16": Rates(989e12, 3.35e12, 2), "TF32": Rates(494e12, 3.35e12), "float32": Rates(67e12, 3.35e12)}
LINKS = {"cpu": 10e9 / 8, "accelerator": 400e9 / 8}  # bytes a second that a device sends, each way at once


class Roofline(NamedTuple):
    """The least seconds for an image: of its operations, and of the bytes that it moves."""

    compute: float
    memory: float

    @property
    def images_per_s(self) -> float:
        """The rate where computing and memory work at the same time."""
        return 1 / max(self)

    @property
    def bound(self) -> str:
        """What takes longer: "FLOPs" or "bytes"."""
        return "FLOPs" if self.compute > self.memory else "bytes"


def roofline(model: str, mode: str, image_size: int, batch_size: int, rates: Rates) -> Roofline:
    """Return the roofline of a step, TRAIN or INFER, on one device."""
    train = mode == TRAIN
    operations = (flops.training if train else flops.forward)(model, image_size)
    moved = traffic.image_bytes(model, image_size, train=train, value_bytes=rates.value_bytes)
    moved += traffic.step_bytes(model, image_size, train=train) / batch_size
    return Roofline(operations / rates.flops, moved / rates.bytes)


class Scaled(NamedTuple):
    """A training over several devices: seconds a step of computing and of sending; `steps` in all."""

    compute: float
    communication: float
    steps: int

    @property
    def hours(self) -> float:
        """The whole training's time."""
        return self.steps * (self.compute + self.communication) / 3600

    @property
    def efficiency(self) -> float:
        """The share of the time that is computing."""
        return self.compute / (self.compute + self.communication)


def scaled(model: str, step_s: float, devices: int, link: float) -> Scaled:
    """Scale `model` to all of CheXpert: each device takes `step_s` for its batch, then sends `link` bytes a second."""
    steps = EPOCHS * steps_per_epoch(CHEXPERT_IMAGES, BATCH * devices)
    return Scaled(step_s, traffic.ring_bytes(model, SIZE, devices) / link, steps)


# ---------------------------------------------------------------------------------------------------------- counted


def counts() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables that need no measurement."""
    return {
        "counted": [_counted(model) for model in FAMILY],
        "growth": [_growth(model, size) for model in FAMILY for size in SIZES],
        "ring": [_ring(model, devices) for model in FAMILY for devices in DEVICES],
        "h100": [_h100(model, mode) for model in FAMILY for mode in (TRAIN, INFER)],
    }


def _counted(model: str) -> dict[str, Any]:
    operations = flops.training(model, SIZE)
    training = traffic.image_bytes(model, SIZE, train=True)
    step = traffic.step_bytes(model, SIZE, train=True)
    return {
        "model": model.upper(),
        "parameters": sum(traffic.parameters(model, SIZE)),
        "forward_gflop": flops.forward(model, SIZE) / 1e9,
        "training_gflop": operations / 1e9,
        "forward_mb": traffic.image_bytes(model, SIZE, train=False) / 1e6,
        "training_mb": training / 1e6,
        "step_mb": step / 1e6,
        "flop_a_byte": operations / (training + step / BATCH),
    }


def _growth(model: str, image_size: int) -> dict[str, Any]:
    return {
        "model": model.upper(),
        "image_size": image_size,
        "training_gflop": flops.training(model, image_size) / 1e9,
        "training_mb": traffic.image_bytes(model, image_size, train=True) / 1e6,
        "parameters_millions": sum(traffic.parameters(model, image_size)) / 1e6,
    }


def _ring(model: str, devices: int) -> dict[str, Any]:
    return {"model": model.upper(), "devices": devices, "sent_mb": traffic.ring_bytes(model, SIZE, devices) / 1e6}


def _h100(model: str, mode: str) -> dict[str, Any]:
    found = {name: roofline(model, mode, SIZE, BATCH, rates) for name, rates in H100.items()}
    each = {name: {"images_per_s": one.images_per_s, "bound": one.bound} for name, one in found.items()}
    return {"model": model.upper(), "mode": mode} | each


# --------------------------------------------------------------------------------------------------------- measured


def measured(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables that compare measurements with counts, for each machine.

    Raises:
      UserError: a machine's memory was not measured.
    """
    found: dict[str, list[dict[str, Any]]] = {"rates": [], "roofline": [], "paper_day": [], "chexpert": []}
    for members in by_machine(benchmarks):
        machine = members[0]["machine"]
        rates, rows = measured_rates(members), fastest_rows(members)
        of_machine = {
            "rates": [_rates(precision, each) for precision, each in rates.items()],
            "roofline": [_roofline(row, rates[row["precision"]]) for row in rows],
            "paper_day": [_paper_day(row) for row in paper_steps(rows).values()],
            "chexpert": _chexpert(rows, machine["platform"]),
        }
        for table, lines in of_machine.items():
            found[table] += [{"machine": machine_name(machine)} | line for line in lines]
    return found


def by_machine(benchmarks: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Group benchmarks by hardware; those without CPU kernels are apart from those with them."""
    found: dict[tuple, list[Mapping[str, Any]]] = {}
    fields = ("cpu", "instructions", "cores", "memory_bytes", "platform", "device", "kernels")
    for benchmark in benchmarks:
        key = tuple(benchmark["machine"][field] for field in fields)
        found.setdefault(key, []).append(benchmark)
    return list(found.values())


def machine_name(machine: Mapping[str, Any]) -> str:
    """Name what computed: an accelerator by its kind, a CPU with its cores and whether it had the kernels."""
    if machine["platform"] != "cpu":
        return machine["device"]
    return f"{study.processor(machine)}, CPU kernels {'built' if machine['kernels'] else 'not built'}"


def measured_rates(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, Rates]:
    """Return, by precision, the best rates that were measured on the machine of all these benchmarks.

    Raises:
      UserError: none of them measured its memory.
    """
    memory = [benchmark["memory_gb_s"] for benchmark in benchmarks if "memory_gb_s" in benchmark]
    if not memory:
        raise UserError("no workdir has the rate of the machine's memory: run --mode=benchmark into a new one")
    products = [benchmark["matrix_product"]["gflops"] for benchmark in benchmarks]
    return {
        precision: Rates(max(each.get(precision, 0) for each in products) * 1e9, max(memory) * 1e9, value_bytes)
        for precision, value_bytes in VALUE_BYTES.items()
        if any(precision in each for each in products)
    }


def fastest_rows(benchmarks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return steps of TRAIN and INFER on one device: the fastest of each model, mode, size, batch and precision."""
    found: dict[tuple, Mapping[str, Any]] = {}
    for row in (row for benchmark in benchmarks for row in benchmark["rows"]):
        if row["mode"] not in (TRAIN, INFER) or row["devices"] != 1 or "reason" in row:
            continue
        key = tuple(row[field] for field in ("model", "mode", "image_size", "batch_size", "precision"))
        if key not in found or found[key]["images_per_s"] < row["images_per_s"]:
            found[key] = row
    return [row for _, row in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != TRAIN, item[0][2:]))]


def paper_steps(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return, by model, its training step at the paper's size and batch, in the precision in which it is fastest."""
    alike = [row for row in rows if (row["mode"], row["image_size"], row["batch_size"]) == (TRAIN, SIZE, BATCH)]
    return {row["model"]: row for row in sorted(alike, key=lambda row: (row["model"], row["images_per_s"]))}


def _rates(precision: str, rates: Rates) -> dict[str, Any]:
    return {"precision": precision, "gflops": rates.flops / 1e9, "memory_gb_s": rates.bytes / 1e9}


def _roofline(row: Mapping[str, Any], rates: Rates) -> dict[str, Any]:
    least = roofline(row["model"], row["mode"], row["image_size"], row["batch_size"], rates)
    return {
        "model": row["model"].upper(),
        "mode": row["mode"],
        "batch_size": row["batch_size"],
        "image_size": row["image_size"],
        "precision": row["precision"],
        "compute_ms": least.compute * 1e3,
        "memory_ms": least.memory * 1e3,
        "roofline_images_per_s": least.images_per_s,
        "images_per_s": row["images_per_s"],
        "share": row["images_per_s"] / least.images_per_s,
    }


def _paper_day(row: Mapping[str, Any]) -> dict[str, Any]:
    """How long the paper's training takes by this step, without feed and evaluation."""
    images = PAPER_IMAGES * EPOCHS
    return {
        "model": row["model"].upper(),
        "precision": row["precision"],
        "images_per_s": row["images_per_s"],
        "hours": images / row["images_per_s"] / 3600,
        "times": row["images_per_s"] / (images / PAPER_SECONDS),
    }


def _chexpert(rows: Sequence[Mapping[str, Any]], platform: str) -> list[dict[str, Any]]:
    """M1 on all of CheXpert over several such devices; empty where its step was not measured."""
    step = paper_steps(rows).get("m1")
    if step is None:
        return []
    link = LINKS["cpu" if platform == "cpu" else "accelerator"]
    return [_scaled_row(count, scaled("m1", step["step_s"]["median"], count, link)) for count in DEVICES]


def _scaled_row(devices: int, found: Scaled) -> dict[str, Any]:
    return {
        "devices": devices,
        "batch": BATCH * devices,
        "steps": found.steps,
        "computing_ms": found.compute * 1e3,
        "sending_ms": found.communication * 1e3,
        "hours": found.hours,
        "images_per_s": BATCH * devices / (found.compute + found.communication),
        "efficiency": found.efficiency,
    }


def main(argv: list[str]) -> None:
    parser = study.parser(__doc__)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR", help="of --mode=benchmark")
    given = parser.parse_args(argv)
    figures = counts() | measured(read_benchmarks(given.workdirs))
    study.finish("cost", argv, figures, TABLES, given.output)


if __name__ == "__main__":
    study.run(main)
