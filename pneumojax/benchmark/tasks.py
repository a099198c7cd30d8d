"""What a benchmark measures, and the implementations it measures."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Side(NamedTuple):
    """One implementation, measured in a process of its own: see worker.py."""

    module: str  # dotted name of the module whose `ways` builds the steps
    variant: str = ""  # what `ways` is called with, where a module has several implementations
    library: str = ""  # the optional package that the module needs
    environment: Mapping[str, str] = MappingProxyType({})  # extra variables of the process


OURS = "pneumojax"
_OWN_STEPS = "pneumojax.benchmark.own_steps"
_KERAS = "pneumojax.benchmark.keras_peer"
_TORCH = "pneumojax.benchmark.torch_peer"
SIDES = {
    OURS: Side(_OWN_STEPS),
    "pneumojax-xla": Side(_OWN_STEPS, environment={"PNEUMOJAX_KERNELS": "off"}),
    "keras-tensorflow": Side(_KERAS, "tensorflow", "keras", {"KERAS_BACKEND": "tensorflow"}),
    "keras-jax": Side(_KERAS, "jax", "keras", {"KERAS_BACKEND": "jax"}),
    "torch": Side(_TORCH, "eager", "torch"),
    "torch-compile": Side(_TORCH, "compile", "torch"),
    "torch-max-autotune": Side(_TORCH, "max-autotune", "torch"),
}
PEERS = tuple(side for side in SIDES if side != OURS)

TRAIN, AUGMENTED, INFER, FEED, FED, RESIDENT = MODES = (
    "train", "train-augmented", "infer", "feed", "feed-train", "resident-train",
)  # fmt: skip
MATMUL, COPY = "matmul", "copy"
# Precision -> how accelerators multiply float32 values, in JAX's words. By default, and in training, GPUs round them to
# TF32. A CPU has one way to multiply them: there, "tf32" is float32.
PRODUCTS = {"float32": "highest", "tf32": "default", "bfloat16": "default"}
PRECISIONS = tuple(PRODUCTS)


class Task(NamedTuple):
    """One thing to measure.

    Attributes:
      model: "m1", "m2" or "m3".
      mode: one of these:
        TRAIN: the training step without augmentation, its batch already on the device.
        AUGMENTED: the same with the recipe's augmentation, and equalization if it has that.
        INFER: the evaluation step, without equalization, its batch already on the device.
        FEED: tf.data alone.
        FED: AUGMENTED, with batches from tf.data.
        RESIDENT: AUGMENTED, with batches from a split held whole on the device.
        A name in `attribution.METHODS`: one explanation of one image.
        MATMUL or COPY: the device's speed; the other fields have no effect, except `precision` for MATMUL.
      batch_size: images per step, over all devices.
      image_size: pixels per side.
      precision: one of PRECISIONS.
      devices: how many to use.
    """

    model: str
    mode: str
    batch_size: int
    image_size: int
    precision: str
    devices: int

    @property
    def dtype(self) -> str:
        """The number type of the activations."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"
