"""M1, M2 and M3 in PyTorch, eager or by `torch.compile`, with every way to compute a step that may be the fastest."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from ml_collections import ConfigDict
from torch import nn  # pyright: ignore[reportMissingImports]

from pneumojax.benchmark import flops
from pneumojax.benchmark.tasks import INFER, TRAIN, Task
from pneumojax.benchmark.worker import ReadyStep, Ways
from pneumojax.models.architectures import FAMILY, HEAD_DROPOUT, HEAD_UNITS, Block

LEARNING_RATE = 1e-3
FORMATS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}

Function = Callable[..., torch.Tensor]
Compiler = Callable[..., Function]  # a function and, for inference, its images -> the function, faster


class Classifier(nn.Module):
    """The network: images (batch, 1, height, width) in [0, 1] -> logits (batch,)."""

    def __init__(self, name: str, image_size: int):
        """Build the network `name`, such as "m1", for images of `image_size` pixels per side."""
        super().__init__()
        blocks = FAMILY[name]
        inputs = [1, *(block.filters for block in blocks)]
        self.blocks = nn.Sequential(*(_block(before, block) for before, block in zip(inputs, blocks, strict=False)))
        self.dense_1 = nn.Linear(flops.features(name, image_size), HEAD_UNITS)
        self.dropout = nn.Dropout(HEAD_DROPOUT)
        self.dense_2 = nn.Linear(HEAD_UNITS, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits."""
        # Flatten in the order height, width, channel: in channels-last layout this needs no copy.
        x = self.blocks(images).permute(0, 2, 3, 1).flatten(1)
        return self.dense_2(self.dropout(F.relu(self.dense_1(x))))[:, 0]


def _block(inputs: int, block: Block) -> nn.Sequential:
    dropout = [nn.Dropout(block.dropout)] if block.dropout else []
    return nn.Sequential(
        nn.Conv2d(inputs, block.filters, 3, padding="same"),
        nn.ReLU(),
        *dropout,
        nn.BatchNorm2d(block.filters, eps=1e-3, momentum=0.01),
        nn.MaxPool2d(2, 2, ceil_mode=True),
    )


def load(model: Classifier, variables: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]) -> None:
    """Copy the `params` and `batch_stats` of a pneumojax model into this one, of the same name and image size."""
    params, statistics = variables["params"], variables["batch_stats"]

    def assign(target: torch.Tensor, value: np.ndarray, axes: tuple[int, ...] | None = None) -> None:
        target.data.copy_(torch.from_numpy(np.array(np.transpose(value, axes))))

    for number, block in enumerate(model.blocks, start=1):
        convolution, norm = block[0], block[-2]
        assign(convolution.weight, params[f"conv_{number}"]["kernel"], (3, 2, 0, 1))
        assign(convolution.bias, params[f"conv_{number}"]["bias"])
        assign(norm.weight, params[f"batch_norm_{number}"]["scale"])
        assign(norm.bias, params[f"batch_norm_{number}"]["bias"])
        assign(norm.running_mean, statistics[f"batch_norm_{number}"]["mean"])
        assign(norm.running_var, statistics[f"batch_norm_{number}"]["var"])
    for name in ("dense_1", "dense_2"):
        assign(getattr(model, name).weight, params[name]["kernel"], (1, 0))
        assign(getattr(model, name).bias, params[name]["bias"])


def ways(variant: str) -> Callable[[Task, ConfigDict], Ways]:
    """Return the function that maps a task to its ways: see worker.py.

    They are "eager", by "compile", or the one way "max-autotune": compiled so, channels last, by autocast in bfloat16.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def ways_of(task: Task, _: ConfigDict) -> Ways:
        if device == "cuda":
            _set_products(task.precision)
        if variant == "max-autotune":
            way = partial(STEPS[task.mode], task, device, torch.channels_last)
            return {"channels last, max-autotune": partial(way, partial(_compiled, mode="max-autotune"))}
        return _ways(task, device, compiled=variant == "compile")

    return ways_of


def _set_products(precision: str) -> None:
    """Let the GPU multiply float32 values in the precision, and choose convolutions by trying them."""
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = True


def _ways(task: Task, device: str, compiled: bool) -> Ways:
    """Return every memory layout with every compiler; in bfloat16, also with variables stored in bfloat16."""
    compilers = _compilers(task, device) if compiled else {"": _uncompiled}
    ways = {
        f"{name}{how}": partial(STEPS[task.mode], task, device, layout, compiler)
        for name, layout in FORMATS.items()
        for how, compiler in compilers.items()
    }
    if task.mode == TRAIN:
        return ways
    if not compiled:
        ways["TorchScript, optimize_for_inference"] = partial(_infer, task, device, torch.channels_last, _scripted)
    if task.precision == "bfloat16":
        ways |= {f"{name}, all bfloat16": partial(way, narrow=True) for name, way in ways.items()}
    return ways


def _compilers(task: Task, device: str) -> dict[str, Compiler]:
    """Return ways to call `torch.compile` by name; on a GPU also with CUDA graphs and with autotuning."""
    options: dict[str, dict[str, Any]] = {"": {}}
    if device == "cuda":
        options |= {f", {mode}": {"mode": mode} for mode in ("reduce-overhead", "max-autotune")}
    if task.mode == INFER:
        options |= {", freezing": {"options": {"freezing": True}}}
    return {how: partial(_compiled, **each) for how, each in options.items()}


def _uncompiled(function: Function, *_: torch.Tensor) -> Function:
    return function


def _compiled(function: Function, *_: torch.Tensor, **options: Any) -> Function:
    return torch.compile(function, **options)


def _scripted(model: Function, images: torch.Tensor) -> Function:
    return torch.jit.optimize_for_inference(torch.jit.trace(model, images))


def _batch(task: Task, device: str, layout: torch.memory_format) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images in [0, 1], (batch, 1, size, size), and labels of both classes, (batch,), float32."""
    images = torch.rand(task.batch_size, 1, task.image_size, task.image_size)
    return images.to(device, memory_format=layout), (torch.arange(task.batch_size) % 2).float().to(device)


def _train(task: Task, device: str, layout: torch.memory_format, compiler: Compiler) -> ReadyStep:
    torch._dynamo.reset()
    model = Classifier(task.model, task.image_size).to(device, memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, eps=1e-7, fused=True)
    images, labels = _batch(task, device, layout)

    @compiler
    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=task.precision == "bfloat16"):
            logits = model(images)
        return F.binary_cross_entropy_with_logits(logits.float(), labels)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        value = loss(images, labels)
        value.backward()
        optimizer.step()
        value.item()
        _wait(device)

    return ReadyStep(step, _facts(device))


def _infer(task: Task, device: str, layout: torch.memory_format, compiler: Compiler, narrow: bool = False) -> ReadyStep:
    torch._dynamo.reset()
    model = Classifier(task.model, task.image_size).to(device, memory_format=layout).eval()
    images, _ = _batch(task, device, layout)
    if narrow:
        model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
    cast = task.precision == "bfloat16" and not narrow

    def autocast() -> torch.autocast:
        return torch.autocast(device, torch.bfloat16, enabled=cast, cache_enabled=False)

    with torch.no_grad(), autocast():  # not in inference mode: its tensors cannot be traced
        logits = compiler(model, images)

    def step() -> None:
        with torch.inference_mode(), autocast():
            logits(images)
        _wait(device)

    return ReadyStep(step, _facts(device))


STEPS = {TRAIN: _train, INFER: _infer}


def _facts(device: str) -> dict[str, str]:
    return {"platform": "gpu" if device == "cuda" else device}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
