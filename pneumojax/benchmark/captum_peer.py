"""Captum's methods of explanation on the family in PyTorch, as steps to be measured."""

from collections.abc import Callable
from functools import partial

import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, NoiseTunnel, Occlusion, Saliency
from ml_collections import ConfigDict

from pneumojax.benchmark.task import Task
from pneumojax.benchmark.torch_peer import FORMATS, Classifier
from pneumojax.benchmark.worker import Prepared, Ways
from pneumojax.errors import UserError
from pneumojax.explanations import squares

AT_ONCE = (1, 4, 16, 64)  # variants of an image in one batch, of which the fastest counts


def ways(_: str) -> Callable[[Task, ConfigDict], Ways]:
    """For the worker: a method by its name among ours, each with several sizes of batches."""

    def of(task: Task, config: ConfigDict) -> Ways:
        if task.mode not in _METHODS:
            raise UserError(f"Captum has no {task.mode}")
        return {
            f"{layout}, {count} at a time": partial(_prepared, task, config, count, memory)
            for count in ((1,) if task.mode == "grad-cam" else AT_ONCE)
            for layout, memory in FORMATS.items()
        }

    return of


def _prepared(task: Task, config: ConfigDict, count: int, memory: torch.memory_format) -> Prepared:
    model = Classifier(task.model, task.image_size).eval().to(memory_format=memory)
    image = torch.rand(1, 1, task.image_size, task.image_size)
    method = _METHODS[task.mode](model, config, count, task.image_size)
    return Prepared(lambda: method(image), {})


def _grad_cam(model, config, count, size):
    cam = LayerGradCam(model, model.blocks[-1][1])
    return lambda image: LayerAttribution.interpolate(cam.attribute(image), (size, size), "bilinear")


def _integrated_gradients(model, config, count, size):
    steps = config.explanation.steps
    return lambda image: IntegratedGradients(model).attribute(image, n_steps=steps, internal_batch_size=count)


def _smooth_grad(model, config, count, size):
    wanted = config.explanation
    options = {"nt_type": "smoothgrad", "nt_samples": wanted.samples, "nt_samples_batch_size": count}
    tunnel = NoiseTunnel(Saliency(model))
    return lambda image: tunnel.attribute(image, stdevs=wanted.noise, abs=False, **options)


def _occlusion(model, config, count, size):
    window, stride = squares(config, size).values()
    options = {"sliding_window_shapes": (1, window, window), "strides": (1, stride, stride)}
    return lambda image: Occlusion(model).attribute(image, perturbations_per_eval=count, **options)


_METHODS = {
    "grad-cam": _grad_cam,
    "integrated-gradients": _integrated_gradients,
    "smooth-grad": _smooth_grad,
    "occlusion": _occlusion,
}
