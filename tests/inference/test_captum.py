"""PneumoJAX's maps are Captum's of the same network in PyTorch, at the size of the paper's networks."""

from pathlib import Path

import explained
import jax
import numpy as np
import pytest
from explained import assert_near, compute

from pneumojax.data.decode.images import read
from pneumojax.models import classifier
from pneumojax.models.architectures import FAMILY

torch = pytest.importorskip("torch")
pytest.importorskip("captum")

import captum_maps  # noqa: E402

REAL = Path(__file__).parents[3] / "shared" / "data" / "kermany_224" / "train"
SIDE = 150
OPTIONS = {"steps": 50, "window": 15, "stride": 8}
family = pytest.mark.parametrize("name", FAMILY)


@pytest.fixture(params=["phantoms", "radiographs"])
def images(request):
    """Images of both classes, (n, SIDE, SIDE, 1) float32 in [0, 1].

    Radiographs get noise smaller than a grey level: otherwise rounding decides which of two equal neighbours is the
    maximum.
    """
    if request.param == "phantoms":
        return explained.phantoms(2, SIDE)
    if not REAL.is_dir():
        pytest.skip("the shared radiographs are not here")
    paths = [path for kind in ("NORMAL", "PNEUMONIA") for path in sorted((REAL / kind).iterdir())[:5]]
    levels = np.stack([read(path, SIDE) for path in paths])[..., None]
    return (levels + np.random.default_rng(0).uniform(size=levels.shape)).astype(np.float32) / 256


@family
def test_maps_are_captums(name, images):
    """Images are explained one at a time, since their variants fill the memory."""
    variables = explained.variables(classifier.create(name), SIDE, SIDE)
    for i in range(len(images)):
        image = images[i : i + 1]
        theirs = captum_maps.maps(name, variables, image, **OPTIONS)
        for method, values in explained.compute_shared(name, image, **OPTIONS).items():
            assert_near(values, theirs[method])


@family
def test_smooth_grad_is_pytorchs_mean_over_the_same_noise(name):
    images, model = explained.phantoms(2, SIDE), classifier.create(name)
    options = {"samples": 5, "noise": 0.1, "key": jax.random.key(1)}
    ours = compute("smooth-grad", model, images, np.float64, **options)
    with jax.enable_x64(True):
        added = options["noise"] * np.asarray(
            jax.random.normal(options["key"], (options["samples"], 1, *images.shape[1:]))
        )
    peer = captum_maps.peer(name, explained.variables(model, SIDE, SIDE), SIDE)
    theirs = 0
    for noise in added:
        copies = captum_maps.to_torch(images + noise).requires_grad_()
        (gradient,) = torch.autograd.grad(peer(copies).sum(), copies)
        theirs = theirs + gradient.numpy()[:, 0] / len(added)
    assert_near(ours, theirs)
