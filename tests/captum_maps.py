"""Captum's maps of our networks: what ours are held to."""

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion

from pneumojax.benchmark import torch_peer

_AT_ONCE = 16  # squares that occlusion covers at a time


def peer(name: str, variables: dict, image_size: int) -> torch_peer.Classifier:
    """The model called `name` in PyTorch, with our variables, for inference in float64."""
    model = torch_peer.Classifier(name, image_size)
    torch_peer.load(model, variables)
    return model.double().eval()


def given(images: np.ndarray) -> torch.Tensor:
    """As `peer` takes them: (batch, 1, height, width) float64."""
    return torch.from_numpy(np.float64(images)).permute(0, 3, 1, 2)


def maps(
    name: str, variables: dict, images: np.ndarray, *, steps: int, window: int, stride: int
) -> dict[str, np.ndarray]:
    """By each method that Captum shares with us: (batch, height, width) float64.

    Args:
      name: of the model.
      variables: of ours.
      images: (batch, height, width, 1) float32 in [0, 1].
      steps: of integrated gradients' path.
      window, stride: of occlusion, in pixels.
    """
    model, inputs = peer(name, variables, images.shape[1]), given(images)
    of_layer = LayerGradCam(model, model.blocks[-1][1]).attribute(inputs)  # behind the ReLU, as our conv layers are
    return {
        method: value.detach().numpy()[:, 0]
        for method, value in {
            "grad-cam": LayerAttribution.interpolate(of_layer, images.shape[1:3], "bilinear"),
            "integrated-gradients": IntegratedGradients(model).attribute(inputs, n_steps=steps),
            "occlusion": Occlusion(model).attribute(
                inputs, (1, window, window), strides=(1, stride, stride), perturbations_per_eval=_AT_ONCE
            ),
        }.items()
    }
