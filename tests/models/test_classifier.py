"""M1, M2 and M3 have the paper's layers, and initialize, train and infer as Keras does."""

import re
from functools import cache, partial

import explained
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

from pneumojax.inference.trained_model import flat
from pneumojax.models import classifier, summary
from pneumojax.models.architectures import FAMILY, Block, blocks_of, shapes_of

SIDE = 28
# Name, type, output shape without the batch, trainable parameters, running statistics (Figs. 1, 4, 6).
M1 = [
    ("conv_1", "Conv2D", (150, 150, 32), 320, 0),
    ("batch_norm_1", "BatchNormalization", (150, 150, 32), 64, 64),
    ("max_pool_1", "MaxPooling2D", (75, 75, 32), 0, 0),
    ("conv_2", "Conv2D", (75, 75, 64), 18_496, 0),
    ("dropout_2", "Dropout", (75, 75, 64), 0, 0),
    ("batch_norm_2", "BatchNormalization", (75, 75, 64), 128, 128),
    ("max_pool_2", "MaxPooling2D", (38, 38, 64), 0, 0),
    ("conv_3", "Conv2D", (38, 38, 64), 36_928, 0),
    ("batch_norm_3", "BatchNormalization", (38, 38, 64), 128, 128),
    ("max_pool_3", "MaxPooling2D", (19, 19, 64), 0, 0),
    ("conv_4", "Conv2D", (19, 19, 128), 73_856, 0),
    ("dropout_4", "Dropout", (19, 19, 128), 0, 0),
    ("batch_norm_4", "BatchNormalization", (19, 19, 128), 256, 256),
    ("max_pool_4", "MaxPooling2D", (10, 10, 128), 0, 0),
    ("conv_5", "Conv2D", (10, 10, 256), 295_168, 0),
    ("dropout_5", "Dropout", (10, 10, 256), 0, 0),
    ("batch_norm_5", "BatchNormalization", (10, 10, 256), 512, 512),
    ("max_pool_5", "MaxPooling2D", (5, 5, 256), 0, 0),
    ("flatten", "Flatten", (6_400,), 0, 0),
    ("dense_1", "Dense", (128,), 819_328, 0),
    ("dropout_head", "Dropout", (128,), 0, 0),
    ("dense_2", "Dense", (1,), 129, 0),
]
M2 = [
    ("conv_1", "Conv2D", (150, 150, 32), 320, 0),
    ("batch_norm_1", "BatchNormalization", (150, 150, 32), 64, 64),
    ("max_pool_1", "MaxPooling2D", (75, 75, 32), 0, 0),
    ("conv_2", "Conv2D", (75, 75, 64), 18_496, 0),
    ("batch_norm_2", "BatchNormalization", (75, 75, 64), 128, 128),
    ("max_pool_2", "MaxPooling2D", (38, 38, 64), 0, 0),
    ("conv_3", "Conv2D", (38, 38, 128), 73_856, 0),
    ("dropout_3", "Dropout", (38, 38, 128), 0, 0),
    ("batch_norm_3", "BatchNormalization", (38, 38, 128), 256, 256),
    ("max_pool_3", "MaxPooling2D", (19, 19, 128), 0, 0),
    ("conv_4", "Conv2D", (19, 19, 256), 295_168, 0),
    ("dropout_4", "Dropout", (19, 19, 256), 0, 0),
    ("batch_norm_4", "BatchNormalization", (19, 19, 256), 512, 512),
    ("max_pool_4", "MaxPooling2D", (10, 10, 256), 0, 0),
    ("flatten", "Flatten", (25_600,), 0, 0),
    ("dense_1", "Dense", (128,), 3_276_928, 0),
    ("dropout_head", "Dropout", (128,), 0, 0),
    ("dense_2", "Dense", (1,), 129, 0),
]
M3 = [
    ("conv_1", "Conv2D", (150, 150, 64), 640, 0),
    ("batch_norm_1", "BatchNormalization", (150, 150, 64), 128, 128),
    ("max_pool_1", "MaxPooling2D", (75, 75, 64), 0, 0),
    ("conv_2", "Conv2D", (75, 75, 128), 73_856, 0),
    ("dropout_2", "Dropout", (75, 75, 128), 0, 0),
    ("batch_norm_2", "BatchNormalization", (75, 75, 128), 256, 256),
    ("max_pool_2", "MaxPooling2D", (38, 38, 128), 0, 0),
    ("conv_3", "Conv2D", (38, 38, 256), 295_168, 0),
    ("dropout_3", "Dropout", (38, 38, 256), 0, 0),
    ("batch_norm_3", "BatchNormalization", (38, 38, 256), 512, 512),
    ("max_pool_3", "MaxPooling2D", (19, 19, 256), 0, 0),
    ("flatten", "Flatten", (92_416,), 0, 0),
    ("dense_1", "Dense", (128,), 11_829_376, 0),
    ("dropout_head", "Dropout", (128,), 0, 0),
    ("dense_2", "Dense", (1,), 129, 0),
]
TABLES = {"m1": M1, "m2": M2, "m3": M3}
TOTALS = {"m1": (1_246_401, 1_245_313, 1_088), "m2": (3_666_817, 3_665_857, 960), "m3": (12_200_961, 12_200_065, 896)}
# Dropout rates by layer.
DROPOUT = {
    "m1": {"dropout_2": 0.1, "dropout_4": 0.2, "dropout_5": 0.2, "dropout_head": 0.2},
    "m2": {"dropout_3": 0.2, "dropout_4": 0.2, "dropout_head": 0.2},
    "m3": {"dropout_2": 0.1, "dropout_3": 0.2, "dropout_head": 0.2},
}
family = pytest.mark.parametrize("name", TABLES)


@cache
def initial(name: str, side: int = SIDE) -> dict:
    """Draw a model's initial variables."""
    module = classifier.create(name)
    return jax.jit(lambda key: module.init(key, jnp.zeros((1, side, side, 1)), train=False))(jax.random.key(0))


@cache
def compiled(name: str, train: bool, **attributes):
    """Compile a model's `apply`."""
    module = classifier.create(name, **attributes)
    return jax.jit(partial(module.apply, train=train, mutable=["batch_stats", "intermediates"]))


def images(batch: int = 3, side: int = SIDE, seed: int = 0) -> jax.Array:
    """Draw images, (batch, side, side, 1) float32 in [0, 1)."""
    return jax.random.uniform(jax.random.key(seed), (batch, side, side, 1))


def applied(name, x, *, train, key=None, **attributes):
    """Compute the logits, and everything written, of a model at its initial variables."""
    rngs = {} if key is None else {"dropout": jax.random.key(key)}
    return compiled(name, train, **attributes)(initial(name, x.shape[1]), x, rngs=rngs)


def outputs(written) -> dict[str, np.ndarray]:
    """Return the outputs by layer."""
    return {name.removesuffix("_output"): np.asarray(value) for name, (value,) in written["intermediates"].items()}


@family
def test_layers_are_the_papers(name):
    """Every layer, in order, has the type, output shape and parameters of the paper's table."""
    assert [tuple(row) for row in summary.layer_rows(classifier.create(name), 150)] == TABLES[name]


@family
def test_totals_are_the_papers(name):
    """They are also counted from the variables, so that no layer is missing from the rows."""
    rows = summary.layer_rows(classifier.create(name), 150)
    trainable, other = sum(row.trainable for row in rows), sum(row.other for row in rows)
    assert (trainable + other, trainable, other) == TOTALS[name]
    variables = jax.eval_shape(
        lambda: classifier.create(name).init(jax.random.key(0), jnp.zeros((1, 150, 150, 1)), train=False)
    )
    for collection, count in (("params", trainable), ("batch_stats", other)):
        assert sum(leaf.size for leaf in jax.tree.leaves(variables[collection])) == count


@family
def test_table_reads_as_in_the_figures(name):
    """There are a header, one line per layer with all its parameters, and the three totals."""
    lines = [
        re.split(r"\s{2,}", line.strip()) for line in summary.layer_table(classifier.create(name), 150).splitlines()
    ]
    rule = ["=" * 72]
    total, trainable, other = TOTALS[name]
    assert lines == [
        ["Layer (type)", "Output shape", "Parameters"],
        rule,
        *(
            [f"{layer} ({kind})", f"(None, {', '.join(map(str, shape))})", f"{learned + kept:,}"]
            for layer, kind, shape, learned, kept in TABLES[name]
        ),
        rule,
        [f"Total parameters: {total:,}"],
        [f"Trainable parameters: {trainable:,}"],
        [f"Non-trainable parameters: {other:,}"],
    ]


def test_table_has_columns():
    """Two lines, as they are printed, at another image size than the paper's."""
    lines = summary.layer_table(classifier.create("m1"), 28).splitlines()
    assert "conv_2 (Conv2D)                     (None, 14, 14, 64)            18,496" in lines
    assert "batch_norm_5 (BatchNormalization)   (None, 2, 2, 256)              1,024" in lines


@pytest.mark.parametrize("size", [1, 33, 150])
@pytest.mark.parametrize("blocks", [*FAMILY.values(), (Block(5, 0.5),), blocks_of("", "8,16:0.1,3")])
def test_shapes_by_the_table_are_flaxs(blocks, size):
    """They stand in for a trace where a model is loaded, so that it loads quickly."""
    variables = jax.eval_shape(lambda: classifier.init_variables(classifier.Classifier(blocks), size, 0))
    traced = {name: leaf.shape for name, leaf in flat(variables)}
    assert shapes_of(blocks, size) == traced


@family
def test_logits_are_one_float32_per_image(name):
    """In both modes, they are finite."""
    for train in (False, True):
        logits, _ = applied(name, images(), train=train, key=0)
        assert logits.shape == (3,)
        assert logits.dtype == jnp.float32
        assert np.isfinite(logits).all()


@pytest.mark.parametrize("side", [1, 33, 224])
def test_any_image_size_runs(side):
    """Another size only changes the first dense layer."""
    variables, logits = jax.eval_shape(
        lambda x: classifier.create("m1").init_with_output(jax.random.key(0), x, train=False)[::-1], images(2, side)
    )
    assert logits.shape == (2,)
    flat = 256 * (-(-side // 32)) ** 2
    assert variables["params"]["dense_1"]["kernel"].shape == (flat, 128)
    assert variables["params"]["conv_5"]["kernel"].shape == (3, 3, 128, 256)


def test_inference_scores_each_image_alone():
    """A logit does not depend on the other images, so padding a batch changes no score."""
    x = images()
    together, _ = applied("m1", x, train=False)
    alone = [applied("m1", x[i : i + 1], train=False)[0] for i in range(3)]
    assert alone[0].shape == (1,)
    alone = np.concatenate(alone)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    assert np.ptp(together) > 1e-3


@family
def test_every_layers_output_is_sown_by_name(name):
    """Layer tables and explanations read them. Each has the shape of its row, and the last holds the logits."""
    logits, written = applied(name, images(), train=False)
    sown = outputs(written)
    rows = summary.layer_rows(classifier.create(name), SIDE)
    assert set(sown) == {row.name for row in rows}
    for row in rows:
        assert sown[row.name].shape == (3, *row.shape)
    np.testing.assert_array_equal(sown["dense_2"][:, 0], logits)
    for layer in ("conv_1", "conv_3", "dense_1"):
        assert sown[layer].min() == 0  # after the ReLU
        assert sown[layer].max() > 0


@family
def test_dropout_acts_in_training_only(name):
    """In training it has its rates. In inference it changes nothing, and needs no key."""
    x = images()
    _, written = applied(name, x, train=False)
    before, dropped = outputs(written), DROPOUT[name]
    for layer in dropped:
        np.testing.assert_array_equal(before[layer], before[source_of(layer)])
    _, written = applied(name, x, train=True, key=0)
    after = outputs(written)
    for layer, rate in dropped.items():
        before_dropout = after[source_of(layer)]
        alive = before_dropout > 0
        share = (after[layer][alive] == 0).mean()
        # Six standard deviations of the share.
        assert abs(share - rate) < 6 * np.sqrt(rate * (1 - rate) / alive.sum()), layer
        kept = after[layer] > 0
        np.testing.assert_allclose(after[layer][kept], before_dropout[kept] / (1 - rate), rtol=1e-5)


def source_of(layer: str) -> str:
    """The layer whose output a dropout gets."""
    return "dense_1" if layer == "dropout_head" else layer.replace("dropout", "conv")


def test_dropout_depends_on_its_key():
    """The same key gives the same logits, and another key others. Training without a key fails."""
    x = images()
    first, _ = applied("m1", x, train=True, key=0)
    np.testing.assert_array_equal(applied("m1", x, train=True, key=0)[0], first)
    assert np.abs(applied("m1", x, train=True, key=1)[0] - first).max() > 1e-4
    with pytest.raises(flax.errors.InvalidRngError):
        applied("m1", x, train=True)


def test_statistics_move_in_training_only():
    """Inference reads them and leaves them, bit for bit."""
    before = initial("m1")["batch_stats"]
    _, written = applied("m1", images(), train=False)
    jax.tree.map(np.testing.assert_array_equal, written["batch_stats"], before)
    _, written = applied("m1", images(), train=True, key=0)
    for layer, values in written["batch_stats"].items():
        for kind, value in values.items():
            assert np.abs(value - before[layer][kind]).max() > 0, (layer, kind)


@pytest.mark.parametrize("momentum", [0.99, 0.5])
def test_statistics_are_a_running_mean(momentum):
    """As in Keras: momentum * old + (1 - momentum) * the batch's mean and population variance."""
    module = classifier.Classifier(blocks=(classifier.Block(4, 0.0),), batch_norm_momentum=momentum, head_dropout=0.0)
    x = images(2, 8)
    variables = module.init(jax.random.key(0), x, train=False)
    _, written = module.apply(variables, x, train=True, mutable=["batch_stats", "intermediates"])
    batch, running = outputs(written)["conv_1"], written["batch_stats"]["batch_norm_1"]
    np.testing.assert_allclose(running["mean"], (1 - momentum) * batch.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(running["var"], momentum + (1 - momentum) * batch.var((0, 1, 2)), rtol=1e-5)


def test_momentum_defaults_to_that_of_keras():
    """It is 0.99; the recipes may change it."""
    assert classifier.create("m1").batch_norm_momentum == 0.99


@family
def test_initial_values_are_those_of_keras(name):
    """Kernels are Glorot-uniform, up to sqrt(6 / (fan in + fan out)); everything else is zero or one."""
    variables = initial(name)
    for layer, values in variables["params"].items():
        if layer.startswith("batch_norm"):
            assert (values["scale"] == 1).all()
            assert (values["bias"] == 0).all()
            continue
        assert (values["bias"] == 0).all()
        kernel = np.asarray(values["kernel"])
        field = np.prod(kernel.shape[:-2])
        limit = np.sqrt(6 / (field * (kernel.shape[-2] + kernel.shape[-1])))
        assert 0.95 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6), layer
        # The standard deviation of a uniform distribution, to within six standard errors.
        error = 6 * limit / np.sqrt(kernel.size)
        assert abs(kernel.std() - limit / np.sqrt(3)) < error, layer
        assert abs(kernel.mean()) < error, layer
    for values in variables["batch_stats"].values():
        assert (values["mean"] == 0).all()
        assert (values["var"] == 1).all()


def test_bfloat16_applies_to_the_computation_only():
    """Parameters, statistics and logits stay float32, and are close to those of a float32 computation."""
    x, labels = images(8, SIDE), jnp.arange(8) % 2
    blocks = classifier.FAMILY["m1"][:2]
    full, half = (classifier.Classifier(blocks, head_dropout=0.0, dtype=dtype) for dtype in (None, jnp.bfloat16))
    variables = half.init(jax.random.key(0), x, train=False)
    jax.tree.map(np.testing.assert_array_equal, variables, full.init(jax.random.key(0), x, train=False))

    def run(module):
        kept = ["batch_stats", "intermediates"]
        logits, written = module.apply(variables, x, train=True, mutable=kept, rngs={"dropout": jax.random.key(1)})
        return logits, written["batch_stats"], written["intermediates"]

    (logits, statistics, layers), (exact, exact_statistics, _) = run(half), run(full)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, logits, statistics))} == {jnp.dtype("float32")}
    computed = {name: value.dtype for name, (value,) in layers.items() if name != "dense_2_output"}
    assert set(computed.values()) == {jnp.dtype("bfloat16")}, computed
    assert layers["dense_2_output"][0].dtype == jnp.float32
    # bfloat16 has 8 bits and float32 has 24: the results are close, and not the same.
    spread = float(exact.std())
    assert 0 < float(jnp.abs(logits - exact).max()) < 0.2 * spread, (logits, exact)
    for a, b in zip(*map(jax.tree.leaves, (statistics, exact_statistics)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.01 * np.abs(b).max())
    gradients = jax.grad(
        lambda params: optax.sigmoid_binary_cross_entropy(
            half.apply({**variables, "params": params}, x, train=False), labels
        ).mean()
    )(variables["params"])
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


def test_initial_values_depend_on_the_key():
    """The same seed gives the same network, and another seed another."""
    module, x = classifier.Classifier(blocks=(classifier.Block(2, 0.0),)), jnp.zeros((1, 8, 8, 1))
    first, second, other = (module.init(jax.random.key(seed), x, train=False)["params"] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert np.abs(first["conv_1"]["kernel"] - other["conv_1"]["kernel"]).max() > 1e-3


def test_images_of_a_wrong_shape_or_type_are_refused():
    """While tests run, the shapes in the signatures are checked, also under jit (--jaxtyping-packages)."""
    model = classifier.create("m1")
    start = jax.jit(lambda images: model.init(jax.random.key(0), images, train=False))
    for wrong in (jnp.zeros((2, SIDE, SIDE)), jnp.zeros((2, SIDE, SIDE, 3)), jnp.zeros((2, SIDE, SIDE, 1), jnp.uint8)):
        with pytest.raises(TypeCheckError, match="images"):
            start(wrong)


def test_create_uses_the_table_of_that_name():
    """Attributes pass through; an unknown name is a KeyError."""
    module = classifier.create("m3", head_dropout=0.5)
    assert isinstance(module, nn.Module)
    assert [block.filters for block in module.blocks] == [64, 128, 256]
    assert module.head_dropout == 0.5
    for unknown in ("resnet", "M1", ""):
        with pytest.raises(KeyError):
            classifier.create(unknown)


@pytest.mark.parametrize("name", ["m1", "m3"])
def test_a_model_is_cut_behind_any_layer(name):
    """One half computes that layer's output, and the other computes the logits from it."""
    model, variables, x = classifier.create(name), explained.variables(classifier.create(name), SIDE, SIDE), images()
    logits = model.apply(variables, x, train=False)
    _, written = model.apply(variables, x, train=False, mutable=["intermediates"])
    sown = outputs(written)
    assert np.ptp(logits) > 1e-3 * np.abs(logits).max()
    for row in summary.layer_rows(model, SIDE):
        first, second = classifier.halves(model, variables, row.name)
        output = first(x)
        assert output.shape == (3, *row.shape)
        np.testing.assert_allclose(output, sown[row.name], rtol=1e-4, atol=1e-5 * np.abs(sown[row.name]).max())
        whole = second(output)
        assert (whole.shape, whole.dtype) == (logits.shape, jnp.float32)
        np.testing.assert_allclose(whole, logits, rtol=1e-5, atol=1e-5 * np.abs(logits).max(), err_msg=row.name)


@pytest.mark.parametrize("name", ["m1", "m3"])
def test_a_lone_image_has_the_logit_that_it_has_in_a_batch(name):
    """Its dense layers are summed in another way. The gradient of the image agrees too."""
    model, x = classifier.create(name), images()
    first, second = classifier.halves(model, explained.variables(model, SIDE, SIDE), "flatten")
    features = first(x)
    logits, gradients = jax.vmap(jax.value_and_grad(lambda row: second(row[None])[0]))(features)
    together, pull = jax.vjp(second, features)
    np.testing.assert_allclose(logits, together, rtol=1e-5, atol=1e-5 * np.abs(together).max())
    of_features = pull(jnp.ones_like(together))[0]
    np.testing.assert_allclose(gradients, of_features, rtol=1e-5, atol=1e-5 * np.abs(of_features).max())
    alone = [second(row[None])[0] for row in features]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5 * np.abs(together).max())


def test_a_cut_model_computes_in_the_types_of_the_whole():
    """Those are bfloat16 in all layers except the last."""
    model, x = classifier.Classifier(blocks=(classifier.Block(4, 0.1),), dtype=jnp.bfloat16), images(2, 8)
    variables = explained.variables(model, 8, 8)
    _, written = model.apply(variables, x, train=False, mutable=["intermediates"])
    for name, (value,) in written["intermediates"].items():
        first, second = classifier.halves(model, variables, name.removesuffix("_output"))
        output = first(x)
        assert output.dtype == value.dtype, name
        assert second(output).dtype == jnp.float32


def test_cutting_behind_an_unknown_layer_is_refused():
    for unknown in ("dropout_1", "conv_6", "conv", "dense_3", ""):
        with pytest.raises(KeyError):
            classifier.halves(
                classifier.create("m1"), explained.variables(classifier.create("m1"), SIDE, SIDE), unknown
            )
