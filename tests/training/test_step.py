"""The training step gives the same numbers on any number of devices, and is random only by seed and step."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError
from support import SIZE

from pneumojax.data.source import Split
from pneumojax.evaluation import metrics
from pneumojax.evaluation.forward import eval_step
from pneumojax.models import classifier, kernels
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import sharding
from pneumojax.training.optimizer import Plateau, after_epoch, create_optimizer, learning_rate
from pneumojax.training.step import class_weights, compile_step, image_weights, init_state, loss_and_logits, train_step


def fixed_parts(config):
    return {
        "model": create_model(config),
        "optimizer": create_optimizer(config, steps_per_epoch=5),
        "strength": config.augment,
        "weights": (1.5, 0.75),
        "seed": config.seed,
        "smoothing": config.loss.label_smoothing,
    }


def run_steps(config, layout, batches, states=None):
    """Return the states before and after each batch, and the logits; each step may start from its own of `states`."""
    fixed = fixed_parts(config)
    with jax.set_mesh(layout.mesh):
        state = jax.device_get(init_state(init_variables(fixed["model"], SIZE, config.seed), fixed["optimizer"]))
        step, after_each, logits = compile_step(layout, **fixed), [state], []
        for number, (images, labels) in enumerate(batches):
            before = jax.device_put(states[number] if states else after_each[-1], layout.replicated)
            after, batch_logits = step(before, sharding.place(layout, images), sharding.place(layout, labels))
            after_each.append(jax.device_get(after))
            logits.append(np.asarray(batch_logits))
    return after_each, np.array(logits)


def random_batches(count, size=16):
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (size, SIZE, SIZE, 1)).astype(np.uint8), (np.arange(size) % 2).astype(np.uint8))
        for _ in range(count)
    ]


def test_one_device_and_eight_give_the_same_numbers(config):
    """Augmentation, dropout, batch statistics and gradients belong to the job's batch, not to a device's share.

    Each step on eight devices starts from the same state as on one. Rounding sometimes moves a maximum from one pixel
    to another, which changes a few numbers a little; another dropout mask, or statistics of a device's share, would
    change all. Gradient descent is used instead of Adam, which makes a full step of the rounding in a tiny gradient.
    """
    assert jax.device_count() == 8
    config.model.name, config.optimizer.learning_rate = "m3", 0.1
    one, eight = sharding.layout(jax.devices()[:1]), sharding.layout()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optax, "adam", lambda schedule, **_: optax.sgd(schedule))
        states, logits = run_steps(config, one, random_batches(2))
        states_8, logits_8 = run_steps(config, eight, random_batches(2), states)
    np.testing.assert_allclose(logits_8, logits, rtol=0, atol=1e-6 * np.abs(logits).max())
    for before, after, after_8 in zip(states, states[1:], states_8[1:], strict=False):
        for a, b, start in zip(*map(jax.tree.leaves, (after, after_8, before)), strict=True):
            assert np.linalg.norm(b - a) <= 0.01 * np.linalg.norm(a - start)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("name", sorted(classifier.FAMILY))
def test_steps_lower_for_every_backend(config, name, platform):
    config.model.name = name
    fixed = fixed_parts(config)
    images = jax.ShapeDtypeStruct((8, SIZE, SIZE, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((8,), jnp.uint8)

    def start():
        return init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])

    def lowered(step):
        # jax.export refuses the kernels' custom calls as unstable; nothing is kept here.
        checks = [jax.export.DisabledSafetyCheck.custom_call(f"pneumojax_{name}") for name in kernels.SYMBOLS]
        return jax.export.export(jax.jit(step), platforms=[platform], disabled_checks=checks)

    state = jax.eval_shape(start)
    trained = lowered(functools.partial(train_step, **fixed))(state, images, labels)
    assert trained.platforms == (platform,)
    evaluated = lowered(functools.partial(eval_step, fixed["model"]))(state.variables, images)
    assert [shape.shape for shape in evaluated.out_avals] == [(8,), (8, 128)]


def test_labels_that_do_not_fit_the_images_are_refused(config):
    """While tests run, the shapes in the signatures are checked, also of what is traced (--jaxtyping-packages)."""
    fixed = fixed_parts(config)
    state = jax.eval_shape(lambda: init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"]))
    images = jax.ShapeDtypeStruct((8, SIZE, SIZE, 1), jnp.uint8)
    for wrong in (jax.ShapeDtypeStruct((7,), jnp.uint8), jax.ShapeDtypeStruct((8,), jnp.float32)):
        with pytest.raises(TypeCheckError, match="labels"):
            jax.jit(functools.partial(train_step, **fixed)).trace(state, images, wrong)


def test_the_old_state_is_donated(config):
    """A second copy of parameters and moments would cost M3 150 MB on every device."""
    layout = sharding.layout(jax.devices()[:1])
    fixed = fixed_parts(config)
    with jax.set_mesh(layout.mesh):
        state = init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])
        state = jax.device_put(state, layout.replicated)
        [(images, labels)] = random_batches(1)
        compile_step(layout, **fixed)(state, images, labels)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_the_step_number_and_the_seed_decide_all_randomness(config):
    layout = sharding.layout(jax.devices()[:1])
    [batch] = random_batches(1)
    _, same = run_steps(config, layout, [batch])
    _, repeated = run_steps(config, layout, [batch])
    np.testing.assert_array_equal(same, repeated)
    config.seed = 1
    _, other = run_steps(config, layout, [batch])
    assert not np.allclose(same, other)


def test_the_loss_is_the_weighted_mean_done_by_hand(config):
    """One step of plain descent on the last bias moves it by the weighted mean of (target - probability).

    A fifth of each label is spread over both classes: the target of a pneumonia is 0.9, that of a normal 0.1.
    """
    config.augment.update(dict.fromkeys(config.augment, 0.0))
    config.loss.label_smoothing = 0.2
    fixed = fixed_parts(config) | {"optimizer": optax.sgd(1.0)}
    variables = init_variables(fixed["model"], SIZE, 0)
    [(images, labels)] = random_batches(1)
    step = jax.jit(functools.partial(train_step, **fixed))
    state, logits = step(init_state(variables, fixed["optimizer"]), images, labels)
    weights = np.where(labels == 1, 0.75, 1.5)
    targets = np.where(labels == 1, 0.9, 0.1)
    expected = np.mean(weights * (targets - metrics.probabilities(np.asarray(logits))))
    moved = state.params["dense_2"]["bias"] - variables["params"]["dense_2"]["bias"]
    np.testing.assert_allclose(moved, [expected], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_done_by_hand(config, smoothing):
    """The targets are smoothing / 2 and 1 - smoothing / 2; the weights are those of the labels."""
    model = create_model(config)
    variables = init_variables(model, SIZE, 0)
    [(images, labels)] = random_batches(1)
    loss = functools.partial(loss_and_logits, model=model, weights=(1.5, 0.75), smoothing=smoothing)
    mean_loss, (_, logits) = jax.jit(loss)(
        variables["params"], variables["batch_stats"], images / np.float32(255), labels, jax.random.key(0)
    )
    p = metrics.probabilities(np.asarray(logits))
    target = np.where(labels == 1, 1 - smoothing / 2, smoothing / 2)
    losses = -target * np.log(p) - (1 - target) * np.log(1 - p)
    assert mean_loss == pytest.approx(np.mean(np.where(labels == 1, 0.75, 1.5) * losses), rel=1e-5)


def test_class_weights_balance_the_classes_and_keep_the_loss_scale(config):
    labels = np.array([1, 1, 1, 0], np.uint8)
    normal, pneumonia = class_weights(config, labels)
    assert normal * 1 == pytest.approx(pneumonia * 3)
    assert np.mean(np.where(labels == 1, pneumonia, normal)) == pytest.approx(1)
    config.loss.class_weights = "none"
    assert class_weights(config, labels) == (1.0, 1.0)


def weighted_split(labels, weights=None, sites=None):
    groups = {} if sites is None else {"site": np.array(sites)}
    return Split("train", np.arange(len(labels)).astype(str), labels, lambda places: places, weights, groups)


def test_weights_of_labels_balance_the_classes_by_what_they_weigh(config):
    """Distrusted labels of one class must not make that class count less as a whole."""
    labels, trust = np.array([0, 0, 1, 1, 1], np.uint8), np.array([1.0, 0.5, 1.0, 0.2, 0.2])
    weights = image_weights(config, weighted_split(labels, trust))
    assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())
    assert weights[0] == pytest.approx(2 * weights[1]) and weights[2] == pytest.approx(5 * weights[3])
    config.loss.class_weights = "none"
    plain = image_weights(config, weighted_split(labels, trust))
    np.testing.assert_allclose(plain, trust / trust.mean(), rtol=1e-6)


@pytest.mark.parametrize("trust", [None, np.array([1, 1, 0.5, 1, 1, 0.1, 1])])
def test_every_class_of_every_site_weighs_the_same(config, trust):
    """Otherwise a large site with few positives would teach that its look is normal."""
    config.loss.class_weights = "balanced_sites"
    labels, sites = np.array([0, 0, 0, 1, 1, 1, 0], np.uint8), np.array(list("aaaabbb"))
    weights = image_weights(config, weighted_split(labels, trust, sites))
    totals = [weights[(sites == site) & (labels == label)].sum() for site in "ab" for label in (0, 1)]
    np.testing.assert_allclose(totals, len(labels) / 4, rtol=1e-6)


def test_one_site_is_balanced_by_class(config):
    config.loss.class_weights = "balanced_sites"
    labels = np.array([0, 1, 1, 1], np.uint8)
    for sites in (None, ["a"] * 4):
        assert image_weights(config, weighted_split(labels, sites=sites)) is None
    normal, pneumonia = class_weights(config, labels)
    assert normal == pytest.approx(3 * pneumonia)


def test_without_weights_of_labels_the_class_alone_decides(config):
    """So the program of the step, and its numbers, are those of a run without weights."""
    assert image_weights(config, weighted_split(np.array([0, 1], np.uint8))) is None
    assert image_weights(config, weighted_split(np.array([0, 1], np.uint8), sites=["a", "b"])) is None


def test_the_weights_of_images_multiply_their_losses(config):
    """The same weights, given for each image or for each class, lead to the same step; a weight of 0 hides a label."""
    fixed = fixed_parts(config)
    start = init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])
    [(images, labels)] = random_batches(1)
    step = jax.jit(functools.partial(train_step, **fixed))
    by_class, _ = step(start, images, labels)
    weights = np.where(labels == 1, 0.75, 1.5).astype(np.float32)
    by_image, _ = step(start, images, labels, weights)
    jax.tree.map(np.testing.assert_array_equal, by_image.params, by_class.params)
    weights[3] = 0
    hidden, flipped = labels.copy(), labels.copy()
    flipped[3] = 1 - flipped[3]
    ours, theirs = (step(start, images, chosen, weights)[0].params for chosen in (hidden, flipped))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (ours, by_class.params)), strict=True)]
    assert max(moved) > 1e-4


def test_the_learning_rate_rises_and_falls_as_the_config_says(config):
    """Read off the size of Adam's first moves on a constant gradient, which is the learning rate."""
    config.epochs, config.optimizer.warmup_epochs = 10, 1.0
    optimizer, schedule = create_optimizer(config, steps_per_epoch=4), learning_rate(config, steps_per_epoch=4)
    parameter = jnp.ones(())
    state, rates = optimizer.init(parameter), []
    for _ in range(40):
        update, state = optimizer.update(jnp.ones(()), state, parameter)
        rates.append(-float(update) / config.optimizer.learning_rate)
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0], rtol=1e-3)
    assert all(a > b for a, b in zip(rates[4:], rates[5:], strict=False))
    assert rates[-1] < 0.01
    expected = [schedule(step) / config.optimizer.learning_rate for step in range(40)]
    np.testing.assert_allclose(rates, expected, rtol=1e-3, atol=1e-6)


def test_rmsprop_done_by_hand(config):
    """As in Keras: v = 0.9 v + 0.1 g^2, and a step of rate * g / sqrt(v + 1e-7)."""
    config.optimizer.update({"name": "rmsprop", "learning_rate": 0.01, "schedule": "constant", "warmup_epochs": 0.0})
    optimizer = create_optimizer(config, steps_per_epoch=4)
    parameter = jnp.array([1.0, -2.0, 3.0, 0.5])
    state, v = optimizer.init(parameter), np.zeros(4)
    for gradient in ([0.5, -2.0, 0.0, 1e-4], [0.5, 1.0, 0.0, 1e-5], [-4.0, 0.0, 0.0, 1e-3]):
        update, state = optimizer.update(jnp.array(gradient), state, parameter)
        v = 0.9 * v + 0.1 * np.square(gradient)
        np.testing.assert_allclose(update, -0.01 * np.array(gradient) / np.sqrt(v + 1e-7), rtol=1e-5)


def plateaus(accuracies, learning_rate, start=None):
    """Apply `after_epoch` to each val accuracy in turn, and return the plateaus."""
    plateau, updated = start or Plateau(jnp.ones(()), jnp.zeros(()), jnp.zeros((), jnp.int32)), []
    for accuracy in accuracies:
        plateau = after_epoch(plateau, accuracy, learning_rate)
        updated.append(plateau)
    return updated


def test_the_rate_falls_when_val_accuracy_stays():
    """By hand, from 1e-3: Keras's ReduceLROnPlateau with factor 0.3, patience 2, min_delta 1e-4 and min_lr 1e-6."""
    by_hand = [
        # accuracy, rate, best, epochs without improvement
        (0.5, 1, 0.5, 0),
        (0.6, 1, 0.6, 0),
        (0.60005, 1, 0.6, 1),  # better by less than 1e-4
        (0.6002, 1, 0.6002, 0),
        (0.6, 1, 0.6002, 1),
        (0.55, 0.3, 0.6002, 0),
        (0.6, 0.3, 0.6002, 1),
        (0.7, 0.3, 0.7, 0),  # the rate does not rise again
        (0.7, 0.3, 0.7, 1),
        (0.69, 0.09, 0.7, 0),
        (0.5, 0.09, 0.7, 1),
        (0.5, 0.027, 0.7, 0),
        *((0.5, rate, 0.7, stale) for rate, stale in ((0.027, 1), (0.0081, 0), (0.0081, 1), (0.00243, 0))),
        (0.5, 0.00243, 0.7, 1),
        (0.5, 0.001, 0.7, 0),  # 0.3 of it would be below 1e-6
        (0.5, 0.001, 0.7, 1),
        (0.5, 0.001, 0.7, 0),
        (0.9, 0.001, 0.9, 0),
    ]
    updated = plateaus([accuracy for accuracy, *_ in by_hand], 1e-3)
    expected = [numbers for _, *numbers in by_hand]
    np.testing.assert_allclose([(p.rate, p.best, p.stale) for p in updated], expected, rtol=1e-5)
    kept = (np.dtype("float32"), np.dtype("float32"), np.dtype("int32"))
    assert {(p.rate.dtype, p.best.dtype, p.stale.dtype) for p in updated} == {kept}, "the types in a checkpoint"


def test_the_lowest_learning_rate_stays():
    """The paper's 1e-6 is the lowest learning rate."""
    assert [float(p.rate) for p in plateaus([0.6] * 5, 1e-6)] == [1.0] * 5


def test_the_plateaus_rate_multiplies_the_step_only(config):
    """The optimizer's moments are those of the gradients, as in Keras."""
    config.optimizer.update({"name": "rmsprop", "schedule": "plateau"})
    fixed = fixed_parts(config)
    start = init_state(init_variables(fixed["model"], SIZE, 0), fixed["optimizer"])
    [batch] = random_batches(1)
    step = jax.jit(functools.partial(train_step, **fixed))
    whole, _ = step(start, *batch)
    lowered = Plateau(jnp.float32(0.25), jnp.float32(0.75), jnp.int32(1))
    quarter, _ = step(start.replace(plateau=lowered), *batch)
    for before, full, less in zip(*(jax.tree.leaves(s.params) for s in (start, whole, quarter)), strict=True):
        assert np.abs(full - before).max() > 1e-5
        np.testing.assert_allclose(less - before, 0.25 * (full - before), rtol=1e-4, atol=1e-6)
    for name in ("opt_state", "batch_stats", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(quarter, name), getattr(whole, name))
    assert quarter.plateau == lowered, "only the end of an epoch changes it"
