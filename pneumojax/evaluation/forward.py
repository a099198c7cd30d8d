"""The evaluation step, and a model's outputs for every image of a split."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from pneumojax.data.source import Split
from pneumojax.evaluation.neighbours import LAYER
from pneumojax.models import classifier
from pneumojax.runtime import sharding


def eval_step(
    model: classifier.Classifier, variables: classifier.Variables, images: UInt8[Array, "batch height width 1"]
) -> tuple[Float32[Array, " batch"], Float[Array, "batch features"]]:
    """Return the model's logits in inference mode, and the features: the output of the last hidden layer."""
    hidden, head = classifier.halves(model, variables, LAYER)
    features = hidden(images.astype(jnp.float32) / 255)
    return head(features), features


def compile_eval(layout: sharding.Layout, model: classifier.Classifier) -> jax.stages.Wrapped:
    """Compile `eval_step` of the model over the mesh, as a function of variables and images."""

    def step(
        variables: classifier.Variables, images: UInt8[Array, "batch height width 1"]
    ) -> tuple[Float32[Array, " batch"], Float[Array, "batch features"]]:
        return eval_step(model, variables, images)

    return jax.jit(step, in_shardings=(layout.replicated, layout.batch_sharded), out_shardings=layout.replicated)


class Outputs(NamedTuple):
    """What `eval_step` returns, of all images of a split."""

    logits: Float32[np.ndarray, " n"]
    features: Float32[np.ndarray, "n features"]


class Evaluator:
    """`eval_step` compiled once for a model and a layout of devices.

    Attributes:
      batch_size: images in a batch, over all processes.
    """

    def __init__(self, model: classifier.Classifier, layout: sharding.Layout, batch_size: int) -> None:
        """Compile for batches of `batch_size` images, rounded up to a multiple of the number of devices."""
        self.batch_size = -(-batch_size // layout.mesh.size) * layout.mesh.size
        self._layout = layout
        self._step = compile_eval(layout, model)

    def outputs(
        self, variables: classifier.Variables, split: Split, after_batch: Callable[[int], object] = lambda images: None
    ) -> Outputs:
        """Compute the outputs of every image of the split, each once.

        The last batch is padded with its first image; what that yields is dropped. After each batch, `after_batch` is
        called with its number of images; it may raise to stop the rest.
        """
        batches = []
        for images in self._read_ahead(split):
            batches.append(self.batch(variables, images))
            jax.block_until_ready(batches[-2:][0])  # one batch is computed while the next is read
            after_batch(min(self.batch_size, len(split.ids) - self.batch_size * (len(batches) - 1)))
        parts = zip(*jax.device_get(batches), strict=True)
        return Outputs(*(np.concatenate(part)[: len(split.ids)].astype(np.float32) for part in parts))

    def batch(
        self, variables: classifier.Variables, rows: UInt8[np.ndarray, "rows height width 1"]
    ) -> tuple[Float32[Array, " batch"], Float[Array, "batch features"]]:
        """Compute the outputs of one batch of `batch_size` images, of which each process gives its own rows."""
        alone = jax.process_count() == 1  # the compiled step then places the rows itself, in less time
        return self._step(variables, rows if alone else sharding.place(self._layout, rows))

    def _read_ahead(self, split: Split) -> Iterator[UInt8[np.ndarray, "rows height width 1"]]:
        """Yield this process's rows of each batch; the next batch is read while the last one is computed."""
        rows = sharding.own_rows(self._layout, self.batch_size)

        def read(start: int) -> UInt8[np.ndarray, "rows height width 1"]:
            indices = np.arange(start, start + self.batch_size)
            return split.read(np.where(indices < len(split.ids), indices, start)[rows])

        with ThreadPoolExecutor(1) as reader:
            waiting: Future | None = None
            for start in range(0, len(split.ids), self.batch_size):
                following = reader.submit(read, start)
                if waiting:
                    yield waiting.result()
                waiting = following
            if waiting:
                yield waiting.result()
