"""Both ways to compute a block agree, and the setting or the platform chooses between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pneumojax.models import block_choice, classifier
from pneumojax.models.architectures import Block
from pneumojax.models.block_choice import ALWAYS, AUTO, NEVER
from pneumojax.models.configured import create_model
from pneumojax.runtime.config import with_fields

BLOCKS = (Block(32, 0.0), Block(32, 0.3))


def images() -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (4, 18, 18, 1))


@pytest.fixture(scope="module")
def variables():
    return classifier.init_variables(classifier.Classifier(BLOCKS), 18, 0)


@pytest.mark.parametrize("train", [True, False])
def test_both_ways_compute_the_same_logits_statistics_and_gradient(variables, train):
    """With the same units dropped: the choice must not change what a run draws."""

    def computed(fused):
        model = classifier.Classifier(BLOCKS, fused=fused)

        def loss(params):
            logits, written = model.apply(
                variables | {"params": params},
                images(),
                train=train,
                rngs={"dropout": jax.random.key(2)},
                mutable=["batch_stats"],
            )
            return jnp.square(logits).sum(), (logits, written)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    leaves = [jax.tree.leaves(computed(fused)) for fused in (ALWAYS, NEVER)]
    for ours, theirs in zip(*leaves, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-5 * np.abs(theirs).max(initial=1e-3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fused", [ALWAYS, NEVER])
def test_both_ways_lower_for_gpus(variables, fused, dtype):
    """Both are compared there, and neither may fail for a reason that could have been seen here."""
    model = classifier.Classifier(BLOCKS, fused=fused, dtype=jnp.dtype(dtype))

    def loss(params, x, train):
        rngs = {"dropout": jax.random.key(2)}
        logits, _ = model.apply(variables | {"params": params}, x, train=train, rngs=rngs, mutable=["batch_stats"])
        return logits.sum()

    for train in (True, False):
        gradient = jax.jit(lambda params, x, train=train: jax.grad(loss)(params, x, train))
        assert gradient.trace(variables["params"], images()).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("layer", ["conv_2", "max_pool_1"])
def test_a_model_that_is_cut_computes_its_blocks_as_it_says(variables, layer):
    logits = []
    for fused in (ALWAYS, NEVER):
        first, second = classifier.halves(classifier.Classifier(BLOCKS, fused=fused), variables, layer)
        logits.append(second(first(images())))
    np.testing.assert_allclose(*logits, rtol=1e-4)


def test_the_platform_decides_where_the_setting_does_not(monkeypatch):
    monkeypatch.setattr(block_choice, "ON_GPU", block_choice.Fused(train=True, infer=False))
    assert block_choice.is_fused(AUTO, train=True)
    assert block_choice.is_fused(AUTO, train=False)  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert block_choice.is_fused(AUTO, train=True)
    assert not block_choice.is_fused(AUTO, train=False)
    assert block_choice.is_fused(ALWAYS, train=False)
    assert not block_choice.is_fused(NEVER, train=True)


def test_the_config_chooses(config):
    assert create_model(config).fused == AUTO
    assert create_model(with_fields(config, {"model.fused": "never"})).fused == NEVER
