"""What is learnt does not depend on where batches come from."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import SIZE

from pneumojax.data.source import Split
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.training import batches
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import init_state

EXAMPLES, BATCH = 40, 16  # two steps an epoch, eight examples left out


def drawn(examples=EXAMPLES, size=SIZE):
    images = np.random.default_rng(0).integers(0, 256, (examples, size, size, 1), np.uint8)
    return Split("train", np.arange(examples).astype(str), np.arange(examples, dtype=np.uint8) % 2, images.__getitem__)


def fixed_parts(config):
    return {
        "model": create_model(config),
        "optimizer": create_optimizer(config, 2),
        "strength": config.augment,
        "weights": (1.5, 0.75),
        "seed": config.seed,
    }


def run(config, resident, layout, first, counts, state=None, weights=None):
    """Take steps in dispatches of `counts`, from `state` or the initial state; return the last state and all logits.

    `weights` are those of the images in the loss.
    """
    config = configs.with_fields(config, {"data.resident": resident})
    fixed = fixed_parts(config)
    with jax.set_mesh(layout.mesh):
        state = state or init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])
        state = jax.device_put(state, layout.replicated)
        span = {"first_step": first, "last_step": first + sum(counts)}
        steps = batches.choose(config, drawn(), layout, weights_of_images=weights, **span, **fixed)
        logits = []
        for count in counts:
            state, batch_logits = steps.run(state, first, count)
            logits.append(np.asarray(batch_logits))
            first += count
    return jax.device_get(state), np.concatenate(logits)


def assert_same(first, second):
    for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resident_and_fed_batches_give_the_same_bits(config):
    """Over three epochs, and when resumed within one."""
    layout = sharding.layout(jax.devices()[:1])
    fed = run(config, "never", layout, 0, [1] * 6)
    assert_same(run(config, "always", layout, 0, [1] * 6), fed)
    state, before = run(config, "always", layout, 0, [1] * 3)
    state, after = run(config, "always", layout, 3, [1] * 3, state)
    assert_same((state, np.concatenate([before, after])), fed)


@pytest.mark.slow
def test_an_image_keeps_its_weight_wherever_batches_come_from(config):
    """Weights are taken by the same indices as images; one that was given to another image would change the result."""
    layout = sharding.layout(jax.devices()[:1])
    weights = np.random.default_rng(1).uniform(0, 2, EXAMPLES).astype(np.float32)
    fed = run(config, "never", layout, 0, [1] * 3, weights=weights)
    assert_same(run(config, "always", layout, 0, [1] * 3, weights=weights), fed)
    _, unweighted = run(config, "always", layout, 0, [1] * 3)
    np.testing.assert_array_equal(fed[1][0], unweighted[0], err_msg="the logits before the first step")
    assert np.abs(fed[1][1:] - unweighted[1:]).max() > 1e-4


def test_several_steps_in_a_dispatch_equal_single_steps(config):
    """Accelerators take several. Convolutions in a loop add in another order, so results agree only to rounding."""
    config.optimizer.learning_rate = 0.01
    config.model.equalize = False  # rounding may count a pixel at the next level
    layout = sharding.layout(jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optax, "adam", lambda schedule, **_: optax.sgd(schedule))  # see test_step
        _, single = run(config, "always", layout, 0, [1, 1, 1])
        _, together = run(config, "always", layout, 0, [3])
    np.testing.assert_allclose(together, single, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_one_device_and_two_give_the_same_numbers(config):
    (_, logits), (_, logits_2) = (run(config, "always", sharding.layout(jax.devices()[:n]), 5, [1]) for n in (1, 2))
    np.testing.assert_allclose(logits_2, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_loop_of_steps_lowers_for_accelerators(config, platform):
    fixed, layout = fixed_parts(config), sharding.layout(jax.devices()[:1])
    state = jax.eval_shape(lambda: init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"]))
    images = jax.ShapeDtypeStruct((EXAMPLES, SIZE, SIZE, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((EXAMPLES,), jnp.uint8)
    indices = jax.ShapeDtypeStruct((batches.STEPS, BATCH), jnp.int32)
    steps = jax.jit(functools.partial(batches.resident_steps, layout=layout, **fixed))
    lowered = jax.export.export(steps, platforms=[platform])(state, images, labels, indices)
    assert lowered.out_avals[-1].shape == (batches.STEPS, BATCH)
    assert "while" in lowered.mlir_module()


@pytest.mark.parametrize(("share", "devices", "expected"), [(0.9, 1, True), (1.1, 1, False), (0.2, 8, False)])
def test_a_split_fits_if_all_its_copies_do(share, devices, expected):
    """On a CPU, every simulated device has a copy in the same memory."""
    examples = int(share * batches.HOST_LIMIT / 1024**2)
    large = Split("train", np.arange(examples), None, lambda places: np.zeros((len(places), 1024, 1024, 1), np.uint8))
    assert batches.fits(large, sharding.layout(jax.devices()[:devices])) is expected
