"""The training step and the run around it: any number of devices, any backend, stopped and resumed."""

import functools
import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from pneumojax import checkpoint, devices, metrics, models
from pneumojax import config as configs
from pneumojax.data import splits as splitting
from pneumojax.data.sources import open_source
from pneumojax.data.split import from_source
from pneumojax.errors import UserError
from pneumojax.evaluate import Evaluator, eval_step
from pneumojax.train import (
    class_weights,
    compile_step,
    create_model,
    create_optimizer,
    init_state,
    init_variables,
    train,
    train_step,
)

SIZE = 32


@pytest.fixture
def config():
    config = configs.load("m1")
    config.model.image_size = SIZE
    config.epochs = 3
    config.batch_size = 16
    config.evaluation.batch_size = 16
    return config


@pytest.fixture
def splits(chests):
    source = open_source(str(chests))
    records, _ = splitting.for_training(source.records, seed=0, val_fraction=0.2, test_fraction=0.0)
    return {name: from_source(source, name, members, SIZE) for name, members in records.items()}


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

    Each step on eight devices starts where the one device's did: rounding moves a maximum from one pixel to another
    now and then, and would grow from step to step. Gradient descent in place of Adam: Adam turns rounding in a tiny
    gradient into a full step.
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
        moved, moved_8 = (jax.tree.map(np.subtract, end.params, before.params) for end in (after, after_8))
        for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(moved_8), strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-3 * np.abs(a).max())
        for a, b in zip(jax.tree.leaves(after.batch_stats), jax.tree.leaves(after_8.batch_stats), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", sorted(models.FAMILY))
def test_steps_lower_for_every_backend(config, name, platform):
    config.model.name = name
    fixed = fixed_parts(config)
    images = jax.ShapeDtypeStruct((8, SIZE, SIZE, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((8,), jnp.uint8)

    def start():
        return init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])

    state = jax.eval_shape(start)
    trained = jax.export.export(jax.jit(functools.partial(train_step, **fixed)), platforms=[platform])(
        state, images, labels
    )
    assert trained.platforms == (platform,)
    evaluated = jax.export.export(jax.jit(functools.partial(eval_step, fixed["model"])), platforms=[platform])(
        state.variables, images
    )
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


def records_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def final_state(config, workdir, splits, layout):
    model, optimizer = create_model(config), create_optimizer(config, 6)
    like = init_state(init_variables(model, SIZE, 0), optimizer)
    with checkpoint.open_manager(workdir) as manager:
        return jax.device_get(checkpoint.restore_latest(manager, like, layout)[0])


def test_a_run_stopped_and_started_again_equals_one_that_was_not(config, splits, tmp_path, monkeypatch):
    """Stopped in the middle of the second epoch, after its first was saved: bit for bit, line for line."""
    layout = devices.layout(jax.devices()[:1])
    whole, broken = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "broken")
    for workdir in (whole, broken):
        workdir.mkdir()
    assert train(config, whole, splits, layout)

    reads = iter(range(1000))

    def read_until_stopped(indices):
        # tf.data reads a few batches ahead, so the stop comes while an early batch of epoch 2 is computed.
        if next(reads) == 9:
            raise KeyboardInterrupt
        return splits["train"].read(indices)

    stopping = splits | {"train": splits["train"]._replace(read=read_until_stopped)}
    with pytest.raises(BaseException):  # noqa: B017 - however tf.data wraps it
        train(config, broken, stopping, layout)
    assert 0 < len(records_of(broken)) < len(records_of(whole))
    assert train(config, broken, splits, layout)

    assert records_of(broken) == records_of(whole)
    a, b = (final_state(config, workdir, splits, layout) for workdir in (whole, broken))
    assert int(a.step) == 18
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not train(config, broken, splits, layout), "a complete run has nothing left to train"


def test_every_epoch_is_told_and_learning_shows(config, splits, tmp_path):
    config.epochs = 6
    workdir = epath.Path(tmp_path)
    train(config, workdir, splits, devices.layout())
    lines = records_of(workdir)
    assert [(line["epoch"], line["split"]) for line in lines] == [
        (epoch, split) for epoch in range(1, 7) for split in ("train", "val")
    ]
    assert all({"step", "bce", "accuracy", "auc"} <= set(line) for line in lines)
    assert lines[-2]["bce"] < lines[0]["bce"]
    assert any("tfevents" in path.name for path in (workdir / "tensorboard").iterdir())


def test_a_batch_larger_than_the_split_is_refused(config, splits, tmp_path):
    config.batch_size = 128
    with pytest.raises(UserError, match="larger than the 96 training images"):
        train(config, epath.Path(tmp_path), splits, devices.layout())


def test_a_batch_that_devices_cannot_share_is_refused(config, splits, tmp_path):
    config.batch_size = 12
    with pytest.raises(UserError, match="12 cannot be divided over 8 devices"):
        train(config, epath.Path(tmp_path), splits, devices.layout())


def test_a_run_that_diverges_stops_and_names_the_step(config, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(optax, "adam", lambda *_, **__: optax.sgd(1e30))
    with pytest.raises(UserError, match="diverged: the logits of step 1 are not finite"):
        train(config, epath.Path(tmp_path), splits, devices.layout())


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100])
def test_every_image_is_evaluated_once_whatever_the_batch(config, splits, batch_size):
    """Padding fills the last batch and never reaches a metric."""
    model = create_model(config)
    variables = init_variables(model, SIZE, 0)
    layout = devices.layout()
    with jax.set_mesh(layout.mesh):
        logits = Evaluator(model, layout, batch_size).logits(variables, splits["val"])
    everything = splits["val"].read(np.arange(len(splits["val"].ids)))
    np.testing.assert_allclose(logits, eval_step(model, variables, jnp.asarray(everything)), rtol=1e-4, atol=1e-5)
