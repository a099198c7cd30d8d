"""The peers compute what ours compute: from the same weights, the same logits; and each of their ways runs."""

import os
import warnings

import jax
import numpy as np
import pytest

from pneumojax import models
from pneumojax.benchmark.processes import started
from pneumojax.benchmark.task import Task

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
SIDE = 37  # sides 19, 10, 5, 3, 2: odd ones pool a last row alone
KERAS_NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


@pytest.fixture(params=["m1", "m2", "m3"])
def ours(request):
    """(name, variables of which none is left at zero or one, images, their logits)."""
    rng = np.random.default_rng(0)
    model = models.create(request.param)
    images = rng.random((3, SIDE, SIDE, 1), np.float32)
    start = model.init(jax.random.key(0), images, train=False)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf) + rng.uniform(0.01, 0.1, leaf.shape).astype("f"), start)
    return request.param, variables, images, np.asarray(model.apply(variables, images, train=False))


def assert_equal(theirs, logits):
    """To 1e-4 of the largest, and they must differ among the images for that to say anything."""
    largest = np.abs(logits).max()
    assert np.ptp(logits) > 1e-3 * largest
    assert np.abs(theirs - logits).max() <= 1e-4 * largest


def test_pytorch(ours):
    torch = pytest.importorskip("torch")
    from pneumojax.benchmark import torch_peer

    name, variables, images, logits = ours
    peer = torch_peer.Classifier(name, SIDE)
    assert sum(value.numel() for value in peer.parameters()) == sum(
        leaf.size for leaf in jax.tree.leaves(variables["params"])
    )
    torch_peer.load(peer, variables)
    for layout in torch_peer.FORMATS.values():
        with torch.inference_mode():
            given = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            assert_equal(peer.eval()(given).numpy(), logits)


def test_keras(ours):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorflow")
        pytest.importorskip("keras")
        from pneumojax.benchmark import keras_peer

    name, variables, images, logits = ours
    peer = keras_peer.build(name, SIDE)
    for variable in peer.variables:
        layer, kind = variable.path.split("/")[-2:]
        if layer.startswith("seed_generator"):
            continue
        group = "batch_stats" if kind.startswith("moving") else "params"
        variable.assign(variables[group][layer][KERAS_NAMES.get(kind, kind)])
    assert_equal(np.asarray(peer(images, training=False))[:, 0], logits)
    rates = {layer.name: layer.rate for layer in peer.layers if hasattr(layer, "rate")}
    blocks = [block.dropout for block in models.FAMILY[name] if block.dropout]
    assert list(rates.values()) == [*blocks, models.HEAD_DROPOUT]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("side", ["keras-tensorflow", "keras-jax", "torch", "torch-compile"])
def test_every_way_of_a_peer_runs(side, precision):
    pytest.importorskip("torch", reason="compiles for a minute where peers are measured: see `make test-peers`")
    with started(side) as worker:
        for mode in ("train", "infer"):
            answer = worker.prepare(Task("m1", mode, 2, 16, precision, 1), {}, 0.01)
            assert all(isinstance(told, float) for told in answer["tried"].values()), answer["tried"]
            assert answer["facts"]["platform"] in ("cpu", "gpu")
            assert len(worker.measure(0.01)["steps"]) >= 3
