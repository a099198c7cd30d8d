"""What the models cost: by counting, as the floor that counts and rates set, and at other sizes and scales.

  python -m pneumojax.benchmark.cost BENCHMARKS.md WORKDIR...

puts it between the two marks in BENCHMARKS.md, in place of what is there. The workdirs are of --mode=benchmark.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pneumojax.benchmark import flops, traffic
from pneumojax.benchmark.page import processor, rate, rewrite
from pneumojax.benchmark.task import INFER, TRAIN
from pneumojax.data.pipeline import steps_per_epoch
from pneumojax.errors import UserError
from pneumojax.family import FAMILY
from pneumojax.files import markdown_table

NAME = "cost"  # of the marks
SIZE, BATCH, EPOCHS = 150, 32, 100  # the paper's image size and epochs; batch 32 is not printed there
PAPER_IMAGES, PAPER_SECONDS = 7_599, 86_400  # trained "over a period 1 day"
CHEXPERT_IMAGES = 224_316
SIZES, DEVICES = (150, 224, 320, 512), (1, 8, 64, 256)


class Rates(NamedTuple):
    """What a device does at most: `flops` a second, `bytes` of its memory a second; a value takes `value_bytes`."""

    flops: float
    bytes: float
    value_bytes: int = 4


VALUE_BYTES = {"float32": 4, "bfloat16": 2}
# NVIDIA's data sheet of the H100 SXM, dense: without its doubling for sparse matrices.
H100 = {
    "bfloat16": Rates(989e12, 3.35e12, 2),
    "TF32": Rates(494e12, 3.35e12),
    "float32": Rates(67e12, 3.35e12),
}
LINKS = {"cpu": 10e9 / 8, "accelerator": 400e9 / 8}  # bytes a second that a device sends, each way at once


class Floor(NamedTuple):
    """The least seconds for an image: of its operations, and of the bytes that it moves."""

    compute: float
    memory: float

    @property
    def images_per_s(self) -> float:
        """Where computing and memory work at the same time."""
        return 1 / max(self)

    @property
    def bound(self) -> str:
        return "FLOPs" if self.compute > self.memory else "bytes"


def floor(model: str, mode: str, image_size: int, batch_size: int, rates: Rates) -> Floor:
    """Of a step, TRAIN or INFER, on one device."""
    train = mode == TRAIN
    operations = (flops.training if train else flops.forward)(model, image_size)
    moved = traffic.image_bytes(model, image_size, train=train, value_bytes=rates.value_bytes)
    moved += traffic.step_bytes(model, image_size, train=train) / batch_size
    return Floor(operations / rates.flops, moved / rates.bytes)


class Scaled(NamedTuple):
    """A training over several devices: seconds a step of computing and of sending; `steps` in all."""

    compute: float
    communication: float
    steps: int

    @property
    def hours(self) -> float:
        return self.steps * (self.compute + self.communication) / 3600

    @property
    def efficiency(self) -> float:
        return self.compute / (self.compute + self.communication)


def scaled(model: str, step_s: float, devices: int, link: float) -> Scaled:
    """`model` on all of CheXpert: each device takes `step_s` for its batch, then sends at `link` bytes a second."""
    steps = EPOCHS * steps_per_epoch(CHEXPERT_IMAGES, BATCH * devices)
    return Scaled(step_s, traffic.ring_bytes(model, SIZE, devices) / link, steps)


# ----------------------------------------------------------------------------------------------------------- the page


def section(benchmarks: Sequence[Mapping]) -> str:
    """What stands in BENCHMARKS.md: what is counted, then for each machine what was measured beside it.

    Raises:
      UserError: no workdir tells how fast a machine's memory is.
    """
    machines = [_measured(members) for members in _by_machine(benchmarks)]
    return "\n\n".join([_counts(), _growth(), _h100(), *machines]) + "\n"


def _by_machine(benchmarks: Sequence[Mapping]) -> list[list[Mapping]]:
    """The benchmarks that ran on the same hardware together; those without CPU kernels apart from those with them."""
    found: dict[tuple, list[Mapping]] = {}
    for benchmark in benchmarks:
        machine = benchmark["machine"]
        fields = ("cpu", "instructions", "cores", "memory_bytes", "platform", "device", "kernels")
        key = tuple(machine[field] for field in fields)
        found.setdefault(key, []).append(benchmark)
    return list(found.values())


def _counts() -> str:
    header = (
        "model", "parameters", "GFLOP an image, forward", "training", "MB an image, forward", "training", "MB a step",
        f"FLOP a byte, training at batch {BATCH}",
    )  # fmt: skip
    text = (
        f"**Counted** for a float32 image of {SIZE} px. GFLOP are those of convolutions and dense layers"
        " (`pneumojax/benchmark/flops.py`). MB are what a block's operations hand to each other through memory: input,"
        " activations (which the first block computes anew instead of keeping), what max-pool chooses of them, output,"
        ' and gradients of input and output. "MB a step" are parameters, gradients and Adam\'s moments, whatever the'
        " batch (`pneumojax/benchmark/traffic.py`)."
    )
    return f"{text}\n\n{markdown_table(header, map(_count_row, FAMILY))}"


def _count_row(model: str) -> list[str]:
    operations = flops.training(model, SIZE)
    images = {train: traffic.image_bytes(model, SIZE, train=train) for train in (False, True)}
    step = traffic.step_bytes(model, SIZE, train=True)
    return [
        model.upper(),
        f"{sum(traffic.parameters(model, SIZE)):,}",
        f"{flops.forward(model, SIZE) / 1e9:.2f}",
        f"{operations / 1e9:.2f}",
        f"{images[False] / 1e6:.1f}",
        f"{images[True] / 1e6:.1f}",
        f"{step / 1e6:.0f}",
        f"{operations / (images[True] + step / BATCH):.0f}",
    ]


def _growth() -> str:
    told = {
        "training, GFLOP an image": lambda model, size: f"{flops.training(model, size) / 1e9:.2f}",
        "training, MB an image": lambda model, size: f"{traffic.image_bytes(model, size, train=True) / 1e6:.1f}",
        "parameters, millions": lambda model, size: f"{sum(traffic.parameters(model, size)) / 1e6:.2f}",
    }
    by_size = [
        [model.upper(), name, *(value(model, size) for size in SIZES)]
        for model in FAMILY
        for name, value in told.items()
    ]
    sent = [
        [model.upper(), *(f"{traffic.ring_bytes(model, SIZE, count) / 1e6:.1f}" for count in DEVICES)]
        for model in FAMILY
    ]
    return "\n\n".join(
        [
            "**Growth.** Operations and bytes are proportional to the number of images. With an image's side they grow"
            " by its square, those of convolutions exactly but for the rounding of odd sides; so do the first dense"
            " layer's parameters, and with them what a step moves and what devices send each other.",
            markdown_table(("model", "what", *(f"{size} px" for size in SIZES)), by_size),
            "Over devices the batch is divided, and operations and bytes of images with it; parameters are on every"
            " device. In a step each sends, by ring all-reduces of gradients and of batch normalization's statistics,"
            f" 2 (p - 1) / p times four bytes a parameter: MB, at {SIZE} px",
            markdown_table(("model", *(f"{count} device{'s' if count > 1 else ''}" for count in DEVICES)), sent),
        ]
    )


def _h100() -> str:
    rows = [
        [model.upper(), mode, *(_bound(floor(model, mode, SIZE, BATCH, rates)) for rates in H100.values())]
        for model in FAMILY
        for mode in (TRAIN, INFER)
    ]
    figures = ", ".join(f"{rates.flops / 1e12:.0f} TFLOP/s {name}" for name, rates in H100.items())
    memory = H100["float32"].bytes / 1e12
    return (
        "**The floor on one NVIDIA H100 SXM**, by the vendor's published figures, not measured (dense:"
        f" {figures}; {memory:.2f} TB/s): images/s of a step of {BATCH} images that takes as long as its operations or"
        " its bytes need, whichever is longer, in brackets. In bfloat16 values take two bytes, parameters and moments"
        " four. The block as XLA computes it there moves more: the gradient of a convolution's output goes through"
        " memory, too."
        f"\n\n{markdown_table(('model', 'what', *H100), rows)}"
    )


def _bound(found: Floor) -> str:
    return f"{found.images_per_s:,.0f} ({found.bound})"


def _measured(benchmarks: Sequence[Mapping]) -> str:
    """Of one machine."""
    machine = benchmarks[0]["machine"]
    rates = measured_rates(benchmarks)
    rows = fastest_rows(benchmarks)
    kernels = f", CPU kernels {'built' if machine['kernels'] else 'not built'}"
    name = f"{processor(machine)}{kernels}" if machine["platform"] == "cpu" else machine["device"]
    products = ", ".join(f"{each.flops / 1e9:.0f} GFLOP/s in {precision}" for precision, each in rates.items())
    [memory] = {each.bytes for each in rates.values()}
    winograd = (
        " Operations are those of the convolution's definition, of whose 36 products the CPU kernels compute 16"
        " (Winograd's way): a step may be faster than this floor, its share above 1."
    )
    product = (
        f"**The floor on {name}**, measured: a product of large matrices at {products}, a copy in memory at"
        f" {memory / 1e9:.1f} GB/s, read and written together.{winograd if machine['kernels'] else ''} What caches keep"
        " between two operations need not go through memory. Of several runs of the same, the fastest is shown; steps"
        " on one device."
    )
    header = (
        "model", "what", "batch", "px", "precision", "FLOPs, ms an image", "bytes, ms an image",
        "images/s at the floor", "measured, images/s", "of the floor's",
    )  # fmt: skip
    shown = markdown_table(header, (_floor_row(row, rates[row["precision"]]) for row in rows))
    return "\n\n".join([product, shown, *_paper(rows), _chexpert(rows, machine["platform"])])


def measured_rates(benchmarks: Sequence[Mapping]) -> dict[str, Rates]:
    """Precision -> the best that was measured on the machine that all benchmarks ran on.

    Raises:
      UserError: none tells how fast its memory is.
    """
    memory = [benchmark["memory_gb_s"] for benchmark in benchmarks if "memory_gb_s" in benchmark]
    if not memory:
        raise UserError("no workdir tells how fast the machine's memory is: give one that --mode=benchmark wrote anew")
    products = [benchmark["matrix_product"]["gflops"] for benchmark in benchmarks]
    return {
        precision: Rates(max(each.get(precision, 0) for each in products) * 1e9, max(memory) * 1e9, value_bytes)
        for precision, value_bytes in VALUE_BYTES.items()
        if any(precision in each for each in products)
    }


def fastest_rows(benchmarks: Sequence[Mapping]) -> list[Mapping]:
    """Rows of TRAIN and INFER on one device, of each model, mode, size, batch and precision the fastest."""
    found: dict[tuple, Mapping] = {}
    for row in (row for benchmark in benchmarks for row in benchmark["rows"]):
        if row["mode"] not in (TRAIN, INFER) or row["devices"] != 1 or "reason" in row:
            continue
        key = tuple(row[field] for field in ("model", "mode", "image_size", "batch_size", "precision"))
        if key not in found or found[key]["images_per_s"] < row["images_per_s"]:
            found[key] = row
    return [row for _, row in sorted(found.items(), key=lambda item: (item[0][0], item[0][1] != TRAIN, item[0][2:]))]


def _floor_row(row: Mapping, rates: Rates) -> list[str]:
    least = floor(row["model"], row["mode"], row["image_size"], row["batch_size"], rates)
    return [
        row["model"].upper(),
        row["mode"],
        str(row["batch_size"]),
        str(row["image_size"]),
        row["precision"],
        f"{least.compute * 1e3:.2f}",
        f"{least.memory * 1e3:.2f}",
        rate(least.images_per_s),
        rate(row["images_per_s"]),
        f"{row['images_per_s'] / least.images_per_s:.2f}",
    ]


def _steps_like_the_papers(rows: Sequence[Mapping]) -> dict[str, Mapping]:
    """Model -> its row of TRAIN at SIZE and BATCH, in the precision in which it is fastest."""
    alike = [row for row in rows if (row["mode"], row["image_size"], row["batch_size"]) == (TRAIN, SIZE, BATCH)]
    return {row["model"]: row for row in sorted(alike, key=lambda row: (row["model"], row["images_per_s"]))}


def _paper(rows: Sequence[Mapping]) -> list[str]:
    """The paper's day: nothing where no step like its own was measured."""
    steps = _steps_like_the_papers(rows)
    images = PAPER_IMAGES * EPOCHS
    papers = images / PAPER_SECONDS
    shown = [
        [
            model.upper(),
            row["precision"],
            rate(row["images_per_s"]),
            f"{images / row['images_per_s'] / 3600:.2f}",
            f"{row['images_per_s'] / papers:.0f}",
        ]
        for model, row in steps.items()
    ]
    text = (
        f"**The paper's day.** It trained {PAPER_IMAGES:,} images for {EPOCHS} epochs in about a day, {papers:.1f}"
        f" images/s, on a machine of its own. As many images by the step measured here, at {SIZE} px and batch {BATCH},"
        " without feed and evaluation:"
    )
    header = ("model", "precision", "images/s", "hours for the paper's day", "times the paper's rate")
    return [text, markdown_table(header, shown)] if shown else []


def _chexpert(rows: Sequence[Mapping], platform: str) -> str:
    steps = _steps_like_the_papers(rows)
    if "m1" not in steps:
        return f"M1's training step at {SIZE} px and batch {BATCH} was not measured here."
    step_s = steps["m1"]["step_s"]["median"]
    link = LINKS["cpu" if platform == "cpu" else "accelerator"]
    reduces, most = traffic.all_reduces("m1", SIZE), DEVICES[-1]
    crossings = reduces * 2 * (most - 1)
    text = (
        f"**M1 on all of CheXpert**, {CHEXPERT_IMAGES:,} images for {EPOCHS} epochs: calculated, not measured. Each"
        f" device is one like this, takes {step_s * 1e3:.3g} ms for its batch of {BATCH} in"
        f" {steps['m1']['precision']} (that is measured), then sends"
        f" its ring's bytes at {link * 8 / 1e9:.0f} Gbit/s, an assumed link, with no overlap of the two:"
    )
    shown = [_scaled_row(count, scaled("m1", step_s, count, link)) for count in DEVICES]
    header = (
        "devices", "batch", "steps", "computing, ms a step", "sending, ms a step", "hours", "images/s", "efficiency",
    )  # fmt: skip
    after = (
        "The number of steps falls as the batch of all devices grows; whether a model learns as well from fewer, larger"
        " steps is another question. Left out are the feed, evaluation, devices that wait for a slower one, and the"
        f" links' latency: the step's {reduces} all-reduces, one after another, cross {crossings:,} links in turn on"
        f" {most} devices, where each microsecond of latency adds {crossings / 1e3:.1f} ms to a step."
    )
    return "\n\n".join([text, markdown_table(header, shown), after])


def _scaled_row(devices: int, found: Scaled) -> list[str]:
    return [
        str(devices),
        str(BATCH * devices),
        f"{found.steps:,}",
        f"{found.compute * 1e3:.3g}",
        f"{found.communication * 1e3:.3g}",
        f"{found.hours:.2f}",
        f"{BATCH * devices / (found.compute + found.communication):,.0f}",
        f"{found.efficiency:.2f}",
    ]


if __name__ == "__main__":
    rewrite(sys.argv[1:], "cost", NAME, section)
