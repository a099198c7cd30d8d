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

    def count(collection: str, name: str) -> int:
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
    """Format the layers as Keras prints them and as the paper's Figs. 1, 4 and 6 show them."""
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
