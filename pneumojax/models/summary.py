"""The layer table of a model, in Keras's form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pneumojax.models.classifier import Classifier


class LayerRow(NamedTuple):
    """A row of the layer table.

    Attributes:
      name: such as "conv_1".
      kind: Keras's name of the layer's type.
      shape: of the output, without the batch axis.
      trainable: number of trainable parameters.
      other: number of running statistics.
    """

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
    """List the layers in order. The model is traced, not computed."""
    shapes: dict[str, tuple[int, ...]] = {}

    def trace(key: jax.Array) -> dict[str, Any]:
        images = jnp.zeros((1, image_size, image_size, 1))
        variables = model.init(key, images, train=False)
        _, sown = model.apply(variables, images, train=False, mutable=["intermediates"])
        # Recorded here, since a dictionary that `trace` returned would be sorted by name.
        intermediates: Any = sown["intermediates"]
        for name, (output,) in intermediates.items():
            shapes[name.removesuffix("_output")] = output.shape[1:]
        return dict(variables)

    variables = jax.eval_shape(trace, jax.random.key(0))

    def row(name: str) -> LayerRow:
        leaves = [jax.tree.leaves(variables[kind].get(name, {})) for kind in ("params", "batch_stats")]
        counts = (sum(leaf.size for leaf in part) for part in leaves)
        return LayerRow(name, _KINDS[name.rpartition("_")[0] or name], shapes[name], *counts)

    return [row(name) for name in shapes]


def layer_table(model: Classifier, image_size: int) -> str:
    """Format the layers as Keras prints them and as the paper's Figs. 1, 4 and 6 show them."""
    rows = layer_rows(model, image_size)
    trainable, other = sum(row.trainable for row in rows), sum(row.other for row in rows)
    line = "{:<36}{:<24}{:>12}".format
    lines = [line("Layer (type)", "Output shape", "Parameters"), "=" * 72]
    for row in rows:
        shape = f"(None, {', '.join(map(str, row.shape))})"
        lines.append(line(f"{row.name} ({row.kind})", shape, f"{row.trainable + row.other:,}"))
    lines += ["=" * 72, f"Total parameters: {trainable + other:,}"]
    lines += [f"Trainable parameters: {trainable:,}", f"Non-trainable parameters: {other:,}"]
    return "\n".join(lines)
