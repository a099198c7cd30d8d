"""The CNN family as one Flax module, which reads the tables of architectures.py."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

from pneumojax.models import block_choice, block_fused, block_operations, block_reference
from pneumojax.models.architectures import FAMILY, HEAD_DROPOUT, HEAD_UNITS, Block

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}
Function = Callable[[jax.Array], jax.Array]

LEVELS = 256  # grey levels that equalization counts


class Classifier(nn.Module):
    """Blocks, then flatten -> dense 128 -> ReLU -> dropout -> dense 1.

    Kernels start Glorot-uniform and biases at zero, and batch normalization's epsilon is 1e-3: the defaults of Keras,
    which the paper's network used. Every layer's output is sown in the collection `intermediates` as `<layer>_output`.

    Attributes:
      blocks: the table to read.
      equalize: whether each image's histogram is equalized first, see `equalized`.
      batch_norm_momentum: weight of the old running statistics at each update, in [0, 1].
      head_dropout: rate before the last layer, in [0, 1).
      dtype: what the model computes in, such as bfloat16; None for the type of the parameters. Parameters, statistics
        and the last layer are float32 in any case.
      fused: how blocks are computed, one of `block_choice`'s: "auto", "always" or "never" fused.
    """

    blocks: Sequence[Block]
    equalize: bool = False
    batch_norm_momentum: float = 0.99
    head_dropout: float = HEAD_DROPOUT
    dtype: jax.typing.DTypeLike | None = None
    fused: str = block_choice.AUTO

    @nn.compact
    def __call__(
        self, images: Float[Array | np.ndarray, "batch height width 1"], *, train: bool
    ) -> Float32[Array, " batch"]:
        """Compute the logits of pneumonia.

        Args:
          images: in [0, 1].
          train: whether dropout is on (which needs the `dropout` rng), and statistics are the batch's (and update those
            in the collection `batch_stats`).
        """
        x = jnp.asarray(equalized(jnp.asarray(images)) if self.equalize else images, self.dtype)
        for number, block in enumerate(self.blocks, start=1):
            x = self._block(number, block, x, train)
        x = x.reshape(x.shape[0], -1)
        self._sow("flatten", x)
        x = nn.relu(_dense(HEAD_UNITS, "dense_1", self.dtype)(x))
        self._sow("dense_1", x)
        x = nn.Dropout(self.head_dropout, deterministic=not train)(x)
        self._sow("dropout_head", x)
        x = _dense(1, "dense_2", None)(x)
        self._sow("dense_2", x)
        return x[:, 0].astype(jnp.float32)

    def _block(self, number: int, block: Block, x: jax.Array, train: bool) -> jax.Array:
        kernel, bias = _Convolution(block.filters, name=f"conv_{number}")(x.shape[3])
        scale, offset, running = _BatchNorm(block.filters, name=f"batch_norm_{number}")()
        parameters = block_reference.Parameters(kernel, bias, scale, offset)
        dropped = block_reference.NOTHING_DROPPED
        if train and block.dropout:
            shape = (x.shape[0], x.shape[1], x.shape[2], block.filters)
            dropped = block_reference.dropout(self.make_rng("dropout"), block.dropout, shape)
        statistics = block_reference.Statistics(running["mean"].value, running["var"].value)
        if self.is_mutable_collection("intermediates"):
            by = None if train else statistics
            outputs, statistics = block_reference.block_reference(x, parameters, dropped, by)
            for kind, output in outputs.items():
                if kind != "dropout" or block.dropout:
                    self._sow(f"{kind}_{number}", output)
            y = outputs["max_pool"]
        elif train:
            y, statistics = block_choice.block_train(self.fused, x, parameters, dropped)
        else:
            y = block_choice.block_infer(self.fused, x, parameters, statistics)
        if train and not self.is_initializing():
            for name, variable in running.items():
                old, new = variable.value, getattr(statistics, name)
                variable.value = self.batch_norm_momentum * old + (1 - self.batch_norm_momentum) * new
        return y

    def _sow(self, layer: str, output: jax.Array) -> None:
        self.sow("intermediates", f"{layer}_output", output)


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


def create(name: str, **attributes: Any) -> Classifier:
    """Create the model called `name` in `FAMILY`, such as "m1", with other `attributes` of `Classifier`.

    Raises:
      KeyError: there is no model of that name.
    """
    return Classifier(blocks=FAMILY[name], **attributes)


def init_variables(model: Classifier, image_size: int, seed: int | jax.Array) -> Variables:
    """Draw the initial `params` and `batch_stats`, the same on every process."""
    images = jnp.zeros((1, image_size, image_size, 1))
    return dict(model.init(jax.random.key(seed), images, train=False))


def equalized(images: Float[Array, "batch height width 1"]) -> Float32[Array, "batch height width 1"]:
    """Replace each grey level by the share of its image's pixels below it, plus half of those at it.

    A monotone change of an image's levels, such as another contrast or gamma, changes nothing, as long as it merges no
    levels. Between levels, shares are interpolated. The gradient by an image takes its histogram as fixed.

    Args:
      images: in [0, 1].
    """
    batch, pixels = images.shape[0], images.shape[1] * images.shape[2]
    scaled = (LEVELS - 1) * images.astype(jnp.float32).reshape(batch, pixels)
    nearest = jnp.clip(jnp.rint(scaled), 0, LEVELS - 1).astype(jnp.int32)
    counts = jax.vmap(lambda levels: jnp.zeros(LEVELS, jnp.float32).at[levels].add(1))(nearest)
    shares = (jnp.cumsum(counts, axis=1) - counts / 2) / pixels
    lower = jnp.clip(jnp.floor(scaled), 0, LEVELS - 2).astype(jnp.int32)
    below, above = (jnp.take_along_axis(shares, at, axis=1, mode="promise_in_bounds") for at in (lower, lower + 1))
    return (below + (scaled - lower) * (above - below)).reshape(images.shape)


def behind_equalization(
    model: Classifier, images: Float[Array, "batch height width 1"]
) -> tuple[Classifier, Float[Array, "batch height width 1"]]:
    """Return the network that follows the equalization, and what it sees of the images."""
    return model.clone(equalize=False), equalized(images) if model.equalize else images


def halves(model: Classifier, variables: Variables, layer: str) -> tuple[Function, Function]:
    """Cut the model, in inference mode, behind a layer that `summary.layer_rows` names.

    Returns:
      A function from images, (batch, height, width, 1) float in [0, 1], to the layer's output; and one from that to
      the logits, (batch,) float32.

    Raises:
      KeyError: there is no such layer.
    """
    before: list[Function] = [equalized] if model.equalize else []
    before.append(lambda images: images.astype(model.dtype or images.dtype))
    after: list[Function] = []
    cut = False
    for steps, whole in _parts(model, variables):
        if layer in steps:
            cut = True
            count = [*steps].index(layer) + 1
            before += [*steps.values()][:count] if count < len(steps) else [whole]
            after += [*steps.values()][count:]
        else:
            (after if cut else before).append(whole)
    if not cut:
        raise KeyError(layer)
    after.append(lambda x: x[:, 0].astype(jnp.float32))
    return _chained(before), _chained(after)


def _chained(steps: Sequence[Function]) -> Function:
    def run(x: jax.Array) -> jax.Array:
        for step in steps:
            x = step(x)
        return x

    return run


def _parts(model: Classifier, variables: Variables) -> Iterator[tuple[dict[str, Function], Function]]:
    """Yield each block, and each layer after the blocks: its layers by name, and all of it as one function."""
    params, running = variables["params"], variables["batch_stats"]
    for number, block in enumerate(model.blocks, start=1):
        convolution, batch_norm = params[f"conv_{number}"], params[f"batch_norm_{number}"]
        parameters = block_reference.Parameters(
            convolution["kernel"], convolution["bias"], batch_norm["scale"], batch_norm["bias"]
        )
        statistics = block_reference.Statistics(*(running[f"batch_norm_{number}"][kind] for kind in ("mean", "var")))
        steps: dict[str, Function] = {
            f"conv_{number}": partial(block_operations.activations, parameters=parameters),
            f"dropout_{number}": lambda x: x,
            f"batch_norm_{number}": partial(block_reference.normalize, parameters=parameters, statistics=statistics),
            f"max_pool_{number}": block_fused.pool,
        }
        if not block.dropout:
            del steps[f"dropout_{number}"]
        yield steps, partial(block_choice.block_infer, model.fused, parameters=parameters, statistics=statistics)
    first = _dense_step(_dense(HEAD_UNITS, "dense_1", model.dtype), params["dense_1"])
    last = _dense_step(_dense(1, "dense_2", None), params["dense_2"])
    head: dict[str, Function] = {
        "flatten": lambda x: x.reshape(x.shape[0], -1),
        "dense_1": lambda x: nn.relu(first(x)),
        "dropout_head": lambda x: x,
        "dense_2": last,
    }
    for layer, step in head.items():
        yield {layer: step}, step


def _dense_step(layer: nn.Dense, params: dict[str, jax.Array]) -> Function:
    def step(x: jax.Array) -> jax.Array:
        return cast(jax.Array, layer.apply({"params": params}, x))

    def of_one(x: jax.Array) -> jax.Array:
        """Compute the same of a batch of one: XLA reads the kernel on all cores for this sum, on one for a product."""
        return jnp.sum(x[0, :, None] * params["kernel"], 0, keepdims=True) + params["bias"]

    def chosen(x: jax.Array) -> jax.Array:
        if x.shape[0] == 1 and layer.dtype is None:
            return lax.platform_dependent(x, cpu=of_one, default=step)
        return step(x)

    return chosen
