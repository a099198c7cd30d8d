"""The CNN family M1, M2, M3 as one Flax module, which reads its tables."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pneumojax import fused, layers
from pneumojax.family import FAMILY, HEAD_DROPOUT, HEAD_UNITS, Block


class Classifier(nn.Module):
    """Blocks, then flatten -> dense 128 -> ReLU -> dropout -> dense 1.

    Kernels are Glorot-uniform and biases zero, batch normalization's epsilon is 1e-3: Keras's defaults, which the
    paper's network used. Every layer's output is sown in the collection
    `intermediates`, as `<layer>_output`.

    Attributes:
      blocks: the table to read.
      batch_norm_momentum: weight of the old running statistics at each update, in [0, 1].
      head_dropout: rate before the last layer, in [0, 1).
      dtype: of what is computed, such as bfloat16; None for the parameters'. Parameters, the batch's and the running
        statistics, and the last layer are float32 in any case.
    """

    blocks: Sequence[Block]
    batch_norm_momentum: float = 0.99
    head_dropout: float = HEAD_DROPOUT
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits of pneumonia.

        Args:
          images: (batch, height, width, 1) float in [0, 1].
          train: whether dropout is on (needs the `dropout` rng) and statistics are the batch's (and are updated in
            the collection `batch_stats`).

        Returns:
          (batch,) float32 logits.
        """
        x = images if self.dtype is None else images.astype(self.dtype)
        for number, block in enumerate(self.blocks, start=1):
            x = self._block(number, block, x, train)
        x = x.reshape(x.shape[0], -1)
        self._tell("flatten", x)
        x = nn.relu(_dense(HEAD_UNITS, "dense_1", self.dtype)(x))
        self._tell("dense_1", x)
        x = nn.Dropout(self.head_dropout, deterministic=not train)(x)
        self._tell("dropout_head", x)
        x = _dense(1, "dense_2", None)(x)
        self._tell("dense_2", x)
        return x[:, 0].astype(jnp.float32)

    def _block(self, number: int, block: Block, x: jax.Array, train: bool) -> jax.Array:
        kernel, bias = _Convolution(block.filters, name=f"conv_{number}")(x.shape[3])
        scale, offset, running = _BatchNorm(block.filters, name=f"batch_norm_{number}")()
        parameters = layers.Parameters(kernel, bias, scale, offset)
        dropped = layers.NOTHING_DROPPED
        if train and block.dropout:
            dropped = layers.dropout(self.make_rng("dropout"), block.dropout, (*x.shape[:3], block.filters))
        given = None if train else layers.Statistics(running["mean"].value, running["var"].value)
        if self.is_mutable_collection("intermediates"):
            outputs, statistics = layers.block_reference(x, parameters, dropped, given)
            for kind, output in outputs.items():
                if kind != "dropout" or block.dropout:
                    self._tell(f"{kind}_{number}", output)
            y = outputs["max_pool"]
        elif train:
            y, statistics = fused.block_train(x, parameters, dropped.seeds, dropped.rate)
        else:
            return fused.block_infer(x, parameters, given)
        if train and not self.is_initializing():
            for name, variable in running.items():
                old, new = variable.value, getattr(statistics, name)
                variable.value = self.batch_norm_momentum * old + (1 - self.batch_norm_momentum) * new
        return y

    def _tell(self, name: str, value: jax.Array) -> None:
        self.sow("intermediates", f"{name}_output", value)


def _dense(units: int, name: str, dtype: jax.typing.DTypeLike | None) -> nn.Dense:
    return nn.Dense(units, kernel_init=nn.initializers.glorot_uniform(), dtype=dtype, name=name)


class _Convolution(nn.Module):
    """The parameters of `nn.Conv`."""

    filters: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (3, 3, channels, self.filters))
        return kernel, self.param("bias", nn.initializers.zeros, (self.filters,))


class _BatchNorm(nn.Module):
    """The variables of `nn.BatchNorm`."""

    channels: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array, dict[str, nn.Variable]]:
        running = {"mean": jnp.zeros, "var": jnp.ones}
        return (
            self.param("scale", nn.initializers.ones, (self.channels,)),
            self.param("bias", nn.initializers.zeros, (self.channels,)),
            {name: self.variable("batch_stats", name, start, self.channels) for name, start in running.items()},
        )


def create(name: str, **attributes) -> Classifier:
    """The model called `name` ("m1", "m2" or "m3"), with other attributes of `Classifier` where given.

    Raises:
      KeyError: there is no model of that name.
    """
    return Classifier(blocks=FAMILY[name], **attributes)


Function = Callable[[jax.Array], jax.Array]


def halves(model: Classifier, variables: dict, layer: str) -> tuple[Function, Function]:
    """The model in inference mode, cut behind a layer.

    Args:
      model: the module.
      variables: its `{"params": ..., "batch_stats": ...}`.
      layer: the name of one of `layer_rows`.

    Returns:
      Images (batch, height, width, 1) -> the layer's output; and that -> logits (batch,) float32.

    Raises:
      KeyError: there is no such layer.
    """
    before, after, found = [lambda images: images.astype(model.dtype or images.dtype)], [], False
    for names, steps, whole in _parts(model, variables):
        if layer not in names:
            (after if found else before).append(whole)
            continue
        at, found = names.index(layer) + 1, True
        before += steps[:at] if at < len(steps) else [whole]
        after += steps[at:]
    if not found:
        raise KeyError(layer)
    after.append(lambda x: x[:, 0].astype(jnp.float32))
    return _chained(before), _chained(after)


def _chained(steps: Sequence[Function]) -> Function:
    def run(x):
        for step in steps:
            x = step(x)
        return x

    return run


def _parts(model: Classifier, variables: dict) -> Iterator[tuple[list[str], list[Function], Function]]:
    """Of each block, and of each layer after them: names of layers, what each does, and what all do."""
    params, running = variables["params"], variables["batch_stats"]
    for number, block in enumerate(model.blocks, start=1):
        convolution, affine = params[f"conv_{number}"], params[f"batch_norm_{number}"]
        parameters = layers.Parameters(convolution["kernel"], convolution["bias"], affine["scale"], affine["bias"])
        statistics = layers.Statistics(*(running[f"batch_norm_{number}"][kind] for kind in ("mean", "var")))
        steps = {
            "conv": partial(fused.activations, parameters=parameters),
            "dropout": lambda x: x,
            "batch_norm": partial(layers.normalize, parameters=parameters, statistics=statistics),
            "max_pool": fused.pool,
        }
        if not block.dropout:
            del steps["dropout"]
        names = [f"{kind}_{number}" for kind in steps]
        yield names, [*steps.values()], partial(fused.block_infer, parameters=parameters, statistics=statistics)
    first, last = (
        partial(_dense(units, name, dtype).apply, {"params": params[name]})
        for units, name, dtype in ((HEAD_UNITS, "dense_1", model.dtype), (1, "dense_2", None))
    )
    for name, step in {
        "flatten": lambda x: x.reshape(x.shape[0], -1),
        "dense_1": lambda x: nn.relu(first(x)),
        "dropout_head": lambda x: x,
        "dense_2": last,
    }.items():
        yield [name], [step], step


class LayerRow(NamedTuple):
    """One line of the paper's layer tables: `shape` leaves the batch out; `other` counts running statistics."""

    name: str
    kind: str
    shape: tuple[int, ...]
    trainable: int
    other: int


_KINDS = {
    "conv": "Conv2D",
    "dropout": "Dropout",
    "batch_norm": "BatchNormalization",
    "max_pool": "MaxPooling2D",
    "flatten": "Flatten",
    "dense": "Dense",
}


def layer_rows(model: Classifier, image_size: int) -> list[LayerRow]:
    """The layers in order, with output shapes and parameter counts, read off the module without computing it."""

    shapes = {}

    def trace(key):
        images = jnp.zeros((1, image_size, image_size, 1))
        variables = model.init(key, images, train=False)
        _, sown = model.apply(variables, images, train=False, mutable=["intermediates"])
        # Kept from within the trace: as a result of it, the dictionary would come back sorted by name.
        for name, (value,) in sown["intermediates"].items():
            shapes[name.removesuffix("_output")] = value.shape[1:]
        return variables

    variables = jax.eval_shape(trace, jax.random.key(0))

    def count(collection, name):
        return sum(leaf.size for leaf in jax.tree.leaves(variables.get(collection, {}).get(name, {})))

    return [
        LayerRow(
            name,
            _KINDS[name.rpartition("_")[0] or name],
            shape,
            count("params", name),
            count("batch_stats", name),
        )
        for name, shape in shapes.items()
    ]


def layer_table(model: Classifier, image_size: int) -> str:
    """The layers as Keras prints them and as the paper's Figs. 1, 4 and 6 show them."""
    rows = layer_rows(model, image_size)
    trainable = sum(row.trainable for row in rows)
    other = sum(row.other for row in rows)
    line = "{:<36}{:<24}{:>12}".format
    body = [
        line(f"{row.name} ({row.kind})", f"(None, {', '.join(map(str, row.shape))})", f"{row.trainable + row.other:,}")
        for row in rows
    ]
    return "\n".join(
        [
            line("Layer (type)", "Output shape", "Parameters"),
            "=" * 72,
            *body,
            "=" * 72,
            f"Total parameters: {trainable + other:,}",
            f"Trainable parameters: {trainable:,}",
            f"Non-trainable parameters: {other:,}",
        ]
    )
