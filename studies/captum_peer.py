"""Captum's methods of explanation on the family's networks in PyTorch, as steps for a benchmark worker."""

from collections.abc import Callable
from functools import partial

import torch  # pyright: ignore[reportMissingImports]
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel, Occlusion, Saliency  # pyright: ignore[reportMissingImports]
from ml_collections import ConfigDict

from pneumojax.benchmark.tasks import Task
from pneumojax.benchmark.torch_peer import FORMATS, Classifier
from pneumojax.benchmark.worker import ReadyStep, Ways
from pneumojax.inference.explainer import squares
from pneumojax.runtime.errors import UserError

AT_ONCE = (1, 4, 16, 64)  # variants of an image in one batch; the fastest counts
Method = Callable[[torch.Tensor], torch.Tensor]


def ways(_: str) -> Callable[[Task, ConfigDict], Ways]:
    """Return what a worker prepares: a method, named as pneumojax names it, with several batch sizes and layouts."""

    def of(task: Task, config: ConfigDict) -> Ways:
        if task.mode not in _METHODS:
            raise UserError(f"Captum has no {task.mode}")
        return {
            f"{layout}, {count} at a time": partial(_prepared, task, config, count, memory)
            for count in ((1,) if task.mode == "grad-cam" else AT_ONCE)
            for layout, memory in FORMATS.items()
        }

    return of


def _prepared(task: Task, config: ConfigDict, count: int, memory: torch.memory_format) -> ReadyStep:
    model = Classifier(task.model, task.image_size).eval().to(memory_format=memory)
    image = torch.rand(1, 1, task.image_size, task.image_size)
    method = _METHODS[task.mode](model, config, count, task.image_size)
    return ReadyStep(lambda: method(image), {})


def _grad_cam(model: Classifier, config: ConfigDict, count: int, size: int) -> Method:
    cam = LayerGradCam(model, model.blocks[-1][1])
    return lambda image: LayerAttribution.interpolate(cam.attribute(image), (size, size), "bilinear")


def _integrated_gradients(model: Classifier, config: ConfigDict, count: int, size: int) -> Method:
    steps = config.explanation.steps
    return lambda image: IntegratedGradients(model).attribute(image, n_steps=steps, internal_batch_size=count)


def _smooth_grad(model: Classifier, config: ConfigDict, count: int, size: int) -> Method:
    wanted = config.explanation
    options = {"nt_type": "smoothgrad", "nt_samples": wanted.samples, "nt_samples_batch_size": count}
    tunnel = NoiseTunnel(Saliency(model))
    return lambda image: tunnel.attribute(image, stdevs=wanted.noise, abs=False, **options)


def _occlusion(model: Classifier, config: ConfigDict, count: int, size: int) -> Method:
    window, stride = squares(config, size).values()
    options = {"sliding_window_shapes": (1, window, window), "strides": (1, stride, stride)}
    return lambda image: Occlusion(model).attribute(image, perturbations_per_eval=count, **options)


_METHODS: dict[str, Callable[[Classifier, ConfigDict, int, int], Method]] = {
    "grad-cam": _grad_cam,
    "integrated-gradients": _integrated_gradients,
    "smooth-grad": _smooth_grad,
    "occlusion": _occlusion,
}
