"""Captum's maps of PneumoJAX's networks, for comparison."""

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion

from pneumojax.benchmark import torch_peer

_SQUARES_AT_ONCE = 16  # in occlusion


def peer(name: str, variables: dict, image_size: int) -> torch_peer.Classifier:
    """Build the model called `name` in PyTorch, with PneumoJAX's variables, for inference in float64."""
    model = torch_peer.Classifier(name, image_size)
    torch_peer.load(model, variables)
    return model.double().eval()


def to_torch(images: np.ndarray) -> torch.Tensor:
    """Convert images to the form that `peer` takes, (batch, 1, height, width) float64."""
    return torch.from_numpy(np.float64(images)).permute(0, 3, 1, 2)


def maps(
    name: str, variables: dict, images: np.ndarray, *, steps: int, window: int, stride: int
) -> dict[str, np.ndarray]:
    """Compute maps by every method that Captum has too.

    Args:
      name: of the model.
      variables: of PneumoJAX's model.
      images: (batch, height, width, 1) float32 in [0, 1].
      steps: of integrated gradients.
      window: of occlusion, in pixels.
      stride: of occlusion, in pixels.

    Returns:
      Maps, (batch, height, width) float64, by method.
    """
    model, inputs = peer(name, variables, images.shape[1]), to_torch(images)
    of_layer = LayerGradCam(model, model.blocks[-1][1]).attribute(
        inputs
    )  # after the ReLU, like PneumoJAX's conv layers
    tensors = {
        "grad-cam": LayerAttribution.interpolate(of_layer, images.shape[1:3], "bilinear"),
        "integrated-gradients": IntegratedGradients(model).attribute(inputs, n_steps=steps),
        "occlusion": Occlusion(model).attribute(
            inputs, (1, window, window), strides=(1, stride, stride), perturbations_per_eval=_SQUARES_AT_ONCE
        ),
    }
    return {method: tensor.detach().numpy()[:, 0] for method, tensor in tensors.items()}
