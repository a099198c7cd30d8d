"""Where batches come from changes nothing of what is learnt."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SIZE

from pneumojax import devices, dispatch
from pneumojax.data.readers import Split
from pneumojax.step import create_model, create_optimizer, init_state, init_variables

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


def run(config, resident, layout, first, counts, state=None):
    """The state and all logits after as many steps as `counts` says, from `state` or the first of all."""
    config.data.resident = resident
    fixed = fixed_parts(config)
    with jax.set_mesh(layout.mesh):
        state = state or init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])
        state = jax.device_put(state, layout.everywhere)
        steps = dispatch.choose(config, drawn(), layout, first_step=first, last_step=first + sum(counts), **fixed)
        logits = []
        for count in counts:
            state, found = steps.run(state, first, count)
            logits.append(np.asarray(found))
            first += count
    return jax.device_get(state), np.concatenate(logits)


def same(one, other):
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resident_and_fed_batches_give_the_same_bits(config):
    """Over three epochs, and resumed in the midst of one."""
    layout = devices.layout(jax.devices()[:1])
    fed = run(config, "never", layout, 0, [1] * 6)
    same(run(config, "always", layout, 0, [1] * 6), fed)
    state, before = run(config, "always", layout, 0, [1] * 3)
    state, after = run(config, "always", layout, 3, [1] * 3, state)
    same((state, np.concatenate([before, after])), fed)


def test_several_steps_to_a_dispatch_are_the_same_steps(config):
    """As accelerators take them; a loop's convolutions sum in another order."""
    config.optimizer.learning_rate = 0.01
    layout = devices.layout(jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optax, "adam", lambda schedule, **_: optax.sgd(schedule))  # see test_step
        _, single = run(config, "always", layout, 0, [1, 1, 1])
        _, together = run(config, "always", layout, 0, [3])
    np.testing.assert_allclose(together, single, rtol=1e-3, atol=1e-3)


def test_one_device_and_two_give_the_same_numbers(config):
    (_, logits), (_, logits_2) = (run(config, "always", devices.layout(jax.devices()[:n]), 5, [1]) for n in (1, 2))
    np.testing.assert_allclose(logits_2, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_loop_of_steps_lowers_for_accelerators(config, platform):
    fixed, layout = fixed_parts(config), devices.layout(jax.devices()[:1])
    state = jax.eval_shape(lambda: init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"]))
    images = jax.ShapeDtypeStruct((EXAMPLES, SIZE, SIZE, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((EXAMPLES,), jnp.uint8)
    indices = jax.ShapeDtypeStruct((dispatch.STEPS, BATCH), jnp.int32)
    steps = jax.jit(functools.partial(dispatch.resident_steps, layout=layout, **fixed))
    lowered = jax.export.export(steps, platforms=[platform])(state, images, labels, indices)
    assert lowered.out_avals[-1].shape == (dispatch.STEPS, BATCH)
    assert "while" in lowered.mlir_module()


@pytest.mark.parametrize(("share", "devices_", "expected"), [(0.9, 1, True), (1.1, 1, False), (0.2, 8, False)])
def test_what_does_not_fit_is_fed(share, devices_, expected):
    """On a CPU every simulated device has a copy in the same memory."""
    examples = int(share * dispatch.HOST_LIMIT / 1024**2)
    large = Split("train", np.arange(examples), None, lambda places: np.zeros((len(places), 1024, 1024, 1), np.uint8))
    assert dispatch.fits(large, devices.layout(jax.devices()[:devices_])) is expected
