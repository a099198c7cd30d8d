"""The training step: any number of devices, any backend, nothing random but by seed and step."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import SIZE

from pneumojax import devices, kernels, metrics, models
from pneumojax.evaluate import eval_step
from pneumojax.step import (
    class_weights,
    compile_step,
    create_model,
    create_optimizer,
    init_state,
    init_variables,
    train_step,
)


def fixed_parts(config):
    return {
        "model": create_model(config),
        "optimizer": create_optimizer(config, steps_per_epoch=5),
        "strength": config.augment,
        "weights": (1.5, 0.75),
        "seed": config.seed,
    }


def run_steps(config, layout, batches, states=None):
    """States before and after each batch, and its logits; each step starts from `states` where they are given."""
    fixed = fixed_parts(config)
    with jax.set_mesh(layout.mesh):
        state = jax.device_get(init_state(init_variables(fixed["model"], SIZE, config.seed), fixed["optimizer"]))
        step, seen, logits = compile_step(layout, **fixed), [state], []
        for number, (images, labels) in enumerate(batches):
            before = jax.device_put(states[number] if states else seen[-1], layout.everywhere)
            after, batch_logits = step(before, devices.place(layout, images), devices.place(layout, labels))
            seen.append(jax.device_get(after))
            logits.append(np.asarray(batch_logits))
    return seen, np.array(logits)


def random_batches(count, size=16):
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (size, SIZE, SIZE, 1)).astype(np.uint8), (np.arange(size) % 2).astype(np.uint8))
        for _ in range(count)
    ]


def test_one_device_and_eight_give_the_same_numbers(config):
    """Augmentation, dropout, batch statistics and gradients belong to the job's batch, not to a device's share.

    Each step on eight devices starts where the one device's did. Rounding moves a maximum from one pixel to another now
    and then, which changes a few numbers a little; another dropout mask, or a device's own statistics, changes all.
    Gradient descent in place of Adam, which makes a full step of rounding in a tiny gradient.
    """
    assert jax.device_count() == 8
    config.optimizer.learning_rate = 0.1
    one, eight = devices.layout(jax.devices()[:1]), devices.layout()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optax, "adam", lambda schedule, **_: optax.sgd(schedule))
        states, logits = run_steps(config, one, random_batches(2))
        states_8, logits_8 = run_steps(config, eight, random_batches(2), states)
    np.testing.assert_allclose(logits_8, logits, rtol=1e-4, atol=1e-4)
    for before, after, after_8 in zip(states, states[1:], states_8[1:], strict=False):
        for a, b, start in zip(*map(jax.tree.leaves, (after, after_8, before)), strict=True):
            assert np.linalg.norm(b - a) <= 0.01 * np.linalg.norm(a - start)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", sorted(models.FAMILY))
def test_steps_lower_for_every_backend(config, name, platform):
    config.model.name = name
    fixed = fixed_parts(config)
    images = jax.ShapeDtypeStruct((8, SIZE, SIZE, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((8,), jnp.uint8)

    def start():
        return init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])

    def lowered(step):
        # Which library is there decides whether kernels are called: of no concern to what is not kept.
        own = [jax.export.DisabledSafetyCheck.custom_call(f"pneumojax_{name}") for name in kernels.SYMBOLS]
        return jax.export.export(jax.jit(step), platforms=[platform], disabled_checks=own)

    state = jax.eval_shape(start)
    trained = lowered(functools.partial(train_step, **fixed))(state, images, labels)
    assert trained.platforms == (platform,)
    evaluated = lowered(functools.partial(eval_step, fixed["model"]))(state.variables, images)
    assert [shape.shape for shape in evaluated.out_avals] == [(8,)]


def test_the_old_state_is_donated(config):
    """Two copies of parameters and moments would cost M3 150 MB more on every device."""
    layout = devices.layout(jax.devices()[:1])
    fixed = fixed_parts(config)
    with jax.set_mesh(layout.mesh):
        state = init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])
        state = jax.device_put(state, layout.everywhere)
        [(images, labels)] = random_batches(1)
        compile_step(layout, **fixed)(state, images, labels)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_the_step_number_and_the_seed_decide_all_randomness(config):
    layout = devices.layout(jax.devices()[:1])
    [batch] = random_batches(1)
    _, same = run_steps(config, layout, [batch])
    _, again = run_steps(config, layout, [batch])
    np.testing.assert_array_equal(same, again)
    config.seed = 1
    _, other = run_steps(config, layout, [batch])
    assert not np.allclose(same, other)


def test_the_loss_is_the_weighted_mean_done_by_hand(config):
    """One step of plain descent on the last bias moves it by the weighted mean of (label - probability)."""
    config.augment.update(dict.fromkeys(config.augment, 0.0))
    fixed = fixed_parts(config) | {"optimizer": optax.sgd(1.0)}
    variables = init_variables(fixed["model"], SIZE, 0)
    [(images, labels)] = random_batches(1)
    step = jax.jit(functools.partial(train_step, **fixed))
    state, logits = step(init_state(variables, fixed["optimizer"]), images, labels)
    weights = np.where(labels == 1, 0.75, 1.5)
    expected = np.mean(weights * (labels - metrics.probabilities(np.asarray(logits))))
    moved = state.params["dense_2"]["bias"] - variables["params"]["dense_2"]["bias"]
    np.testing.assert_allclose(moved, [expected], rtol=1e-5)


def test_class_weights_balance_the_classes_and_keep_the_loss_scale(config):
    labels = np.array([1, 1, 1, 0])
    normal, pneumonia = class_weights(config, labels)
    assert normal * 1 == pytest.approx(pneumonia * 3)
    assert np.mean(np.where(labels == 1, pneumonia, normal)) == pytest.approx(1)
    config.loss.class_weights = "none"
    assert class_weights(config, labels) == (1.0, 1.0)


def test_the_learning_rate_rises_and_falls_as_the_config_says(config):
    """Read off the size of Adam's first moves on a constant gradient, which is the learning rate."""
    config.epochs, config.optimizer.warmup_epochs = 10, 1.0
    optimizer = create_optimizer(config, steps_per_epoch=4)
    parameter = jnp.ones(())
    state, rates = optimizer.init(parameter), []
    for _ in range(40):
        update, state = optimizer.update(jnp.ones(()), state, parameter)
        rates.append(-float(update) / config.optimizer.learning_rate)
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-3)
    assert all(a > b for a, b in zip(rates[4:], rates[5:], strict=False))
    assert rates[-1] < 0.01
