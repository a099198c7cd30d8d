"""From the same weights, the peers compute the same logits as pneumojax; and each of their ways runs."""

import warnings

import jax
import numpy as np
import pytest

from pneumojax.benchmark.tasks import SIDES, Task
from pneumojax.benchmark.worker_client import started
from pneumojax.models import classifier
from pneumojax.models.architectures import FAMILY, HEAD_DROPOUT

SIDE = 37  # pixels; then 19, 10, 5, 3, 2: where the side is odd, the last row is pooled alone
KERAS_NAMES = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


@pytest.fixture(params=["m1", "m2", "m3"])
def network(request):
    """Name, variables of which none stays at zero or one, images, and their logits."""
    rng = np.random.default_rng(0)
    model = classifier.create(request.param)
    images = rng.random((3, SIDE, SIDE, 1), np.float32)
    start = model.init(jax.random.key(0), images, train=False)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf) + rng.uniform(0.01, 0.1, leaf.shape).astype("f"), start)
    logits = model.apply(*jax.device_put((variables, images)), train=False)
    return request.param, variables, images, np.asarray(logits)


def assert_equal(theirs, logits):
    """Compare logits to 1e-4 of the largest. They must differ among the images, or the comparison proves nothing."""
    largest = np.abs(logits).max()
    assert np.ptp(logits) > 1e-3 * largest
    assert np.abs(theirs - logits).max() <= 1e-4 * largest


def test_pytorch_computes_the_same_logits(network):
    torch = pytest.importorskip("torch")
    from pneumojax.benchmark import torch_peer

    name, variables, images, logits = network
    peer = torch_peer.Classifier(name, SIDE)
    assert sum(value.numel() for value in peer.parameters()) == sum(
        leaf.size for leaf in jax.tree.leaves(variables["params"])
    )
    torch_peer.load(peer, variables)
    for layout in torch_peer.FORMATS.values():
        with torch.inference_mode():
            batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            assert_equal(peer.eval()(batch).numpy(), logits)


def test_keras_computes_the_same_logits(network, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorflow")
        pytest.importorskip("keras")
        from pneumojax.benchmark import keras_peer

    name, variables, images, logits = network
    peer = keras_peer.build(name, SIDE)
    for variable in peer.variables:
        layer, kind = variable.path.split("/")[-2:]
        if layer.startswith("seed_generator"):
            continue
        group = "batch_stats" if kind.startswith("moving") else "params"
        variable.assign(variables[group][layer][KERAS_NAMES.get(kind, kind)])
    assert_equal(np.asarray(peer(images, training=False))[:, 0], logits)
    rates = {layer.name: layer.rate for layer in peer.layers if hasattr(layer, "rate")}
    blocks = [block.dropout for block in FAMILY[name] if block.dropout]
    assert list(rates.values()) == [*blocks, HEAD_DROPOUT]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("side", ["keras-tensorflow", "keras-jax", "torch", "torch-compile"])
def test_every_way_of_a_peer_runs(side, precision):
    pytest.importorskip("torch", reason="compiles for a minute in the environment of `make test-peers`")
    with started(SIDES[side]) as worker:
        for mode in ("train", "infer"):
            answer = worker.prepare(Task("m1", mode, 2, 16, precision, 1), {}, 0.01)
            assert all(isinstance(seconds, float) for seconds in answer["tried"].values()), answer["tried"]
            assert answer["facts"]["platform"] in ("cpu", "gpu")
            assert len(worker.measure(0.01)["steps"]) >= 3
