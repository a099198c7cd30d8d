"""The family in PyTorch, eager or by `torch.compile`, each way to a step that may be its fastest.

On a GPU it computes there, with the reduced precision of float32 products that JAX uses there by default.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from ml_collections import ConfigDict
from torch import nn

from pneumojax.benchmark import flops
from pneumojax.benchmark.task import INFER, TRAIN, Task
from pneumojax.benchmark.worker import Prepared, Ways
from pneumojax.family import FAMILY, HEAD_DROPOUT, HEAD_UNITS, Block

LEARNING_RATE = 1e-3
FORMATS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}


class Classifier(nn.Module):
    """Images (batch, 1, height, width) in [0, 1] -> logits (batch,)."""

    def __init__(self, name: str, image_size: int):
        super().__init__()
        blocks = FAMILY[name]
        inputs = [1, *(block.filters for block in blocks)]
        self.blocks = nn.Sequential(*(_block(before, block) for before, block in zip(inputs, blocks, strict=False)))
        self.dense_1 = nn.Linear(flops.features(name, image_size), HEAD_UNITS)
        self.dropout = nn.Dropout(HEAD_DROPOUT)
        self.dense_2 = nn.Linear(HEAD_UNITS, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Flattened in the order height, width, channel, which costs no copy where channels come last.
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
    """Gives the model the variables of ours: `params` and `batch_stats`, by layer and name."""
    params, statistics = variables["params"], variables["batch_stats"]

    def give(target: torch.Tensor, value, axes=None):
        target.data.copy_(torch.from_numpy(np.array(np.transpose(value, axes))))

    for number, block in enumerate(model.blocks, start=1):
        convolution, norm = block[0], block[-2]
        conv, learned, kept = (
            group[f"{name}_{number}"]
            for group, name in ((params, "conv"), (params, "batch_norm"), (statistics, "batch_norm"))
        )
        give(convolution.weight, conv["kernel"], (3, 2, 0, 1))
        give(convolution.bias, conv["bias"])
        for target, value in (
            (norm.weight, learned["scale"]),
            (norm.bias, learned["bias"]),
            (norm.running_mean, kept["mean"]),
            (norm.running_var, kept["var"]),
        ):
            give(target, value)
    for name in ("dense_1", "dense_2"):
        give(getattr(model, name).weight, params[name]["kernel"], (1, 0))
        give(getattr(model, name).bias, params[name]["bias"])


def ways(name: str) -> Callable[[Task, ConfigDict], Ways]:
    """For the worker: the ways to a task, "eager" or by "compile"."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    prepares = {("eager", TRAIN): _eager_train, ("eager", INFER): _eager_infer}
    prepares |= {("compile", TRAIN): _compile_train, ("compile", INFER): _compile_infer}
    return lambda task, config: prepares[name, task.mode](task, device)


def _eager_train(task: Task, device: str) -> Ways:
    return {name: partial(_train, task, device, layout) for name, layout in FORMATS.items()}


def _compile_train(task: Task, device: str) -> Ways:
    return {
        _named(name, how): partial(_train, task, device, layout, partial(torch.compile, **options))
        for name, layout in FORMATS.items()
        for how, options in _compilers(device).items()
    }


def _eager_infer(task: Task, device: str) -> Ways:
    ways = {name: partial(_infer, task, device, layout) for name, layout in FORMATS.items()}
    ways |= {"TorchScript, optimize_for_inference": partial(_infer, task, device, torch.channels_last, _scripted)}
    return _with_narrow(task, ways)


def _compile_infer(task: Task, device: str) -> Ways:
    compilers = _compilers(device) | {"freezing": {"options": {"freezing": True}}}
    ways = {
        _named(name, how): partial(_infer, task, device, layout, partial(_compiled, options))
        for name, layout in FORMATS.items()
        for how, options in compilers.items()
    }
    return _with_narrow(task, ways)


def _named(layout: str, how: str) -> str:
    return f"{layout}, {how}" if how else layout


def _compilers(device: str) -> dict[str, dict]:
    """What `torch.compile` is asked for: on a GPU also CUDA graphs, and trying out of what its library has."""
    return {"": {}} | {mode: {"mode": mode} for mode in ("reduce-overhead", "max-autotune") if device == "cuda"}


def _with_narrow(task: Task, ways: dict[str, partial]) -> Ways:
    """In bfloat16, each way also with a model that is bfloat16 itself."""
    if task.precision != "bfloat16":
        return ways
    return ways | {f"{name}, all bfloat16": partial(way, narrow=True) for name, way in ways.items()}


def _compiled(options, model, _):
    return torch.compile(model, **options)


def _scripted(model, images):
    return torch.jit.optimize_for_inference(torch.jit.trace(model, images))


def _batch(task: Task, device: str, layout: torch.memory_format) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (batch, 1, size, size) in [0, 1] and labels of either class (batch,), float32."""
    images = torch.rand(task.batch_size, 1, task.image_size, task.image_size)
    return images.to(device, memory_format=layout), (torch.arange(task.batch_size) % 2).float().to(device)


def _train(task: Task, device: str, layout: torch.memory_format, compiling: Callable = lambda loss: loss) -> Prepared:
    torch._dynamo.reset()
    model = Classifier(task.model, task.image_size).to(device, memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, eps=1e-7, fused=True)
    images, labels = _batch(task, device, layout)

    @compiling
    def loss(images, labels):
        with torch.autocast(device, torch.bfloat16, enabled=task.precision == "bfloat16"):
            logits = model(images)
        return F.binary_cross_entropy_with_logits(logits.float(), labels)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = loss(images, labels)
        value.backward()
        optimizer.step()
        value.item()
        _wait(device)

    return Prepared(step, _facts(device))


def _infer(
    task: Task,
    device: str,
    layout: torch.memory_format,
    compiling: Callable = lambda model, images: model,
    narrow: bool = False,
) -> Prepared:
    torch._dynamo.reset()
    model = Classifier(task.model, task.image_size).to(device, memory_format=layout).eval()
    images, _ = _batch(task, device, layout)
    if narrow:
        model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
    cast = task.precision == "bfloat16" and not narrow

    def computing():
        return torch.autocast(device, torch.bfloat16, enabled=cast, cache_enabled=False)

    with torch.no_grad(), computing():  # what is made in inference mode cannot be traced
        logits = compiling(model, images)

    def step():
        with torch.inference_mode(), computing():
            logits(images)
        _wait(device)

    return Prepared(step, _facts(device))


def _facts(device: str) -> dict[str, str]:
    return {"platform": "gpu" if device == "cuda" else device}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
