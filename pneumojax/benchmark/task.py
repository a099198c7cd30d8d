"""What is measured at a time, and by whom."""

from typing import NamedTuple

OURS, CAPTUM = "pneumojax", "captum"
# side -> the module here that has its `ways`, and its name there.
SIDES = {
    OURS: ("ours", ""),
    "pneumojax-xla": ("ours", ""),  # without the CPU kernels
    "keras-tensorflow": ("keras_peer", "tensorflow"),
    "keras-jax": ("keras_peer", "jax"),
    "torch": ("torch_peer", "eager"),
    "torch-compile": ("torch_peer", "compile"),
    CAPTUM: ("captum_peer", ""),  # of explanations alone
}
PEERS = tuple(side for side in SIDES if side not in (OURS, CAPTUM))

TRAIN, AUGMENTED, INFER, FEED, FED, RESIDENT = MODES = (
    "train", "train-augmented", "infer", "feed", "feed-train", "resident-train",
)  # fmt: skip
MATMUL, COPY = "matmul", "copy"
PRECISIONS = ("float32", "bfloat16")


class Task(NamedTuple):
    """One thing to measure.

    Attributes:
      model: "m1", "m2" or "m3".
      mode: TRAIN, without augmentation; AUGMENTED, as the recipe has it; INFER; FEED, tf.data's
        alone; FED, AUGMENTED with batches from there; RESIDENT, AUGMENTED with batches from the whole split on the
        device; one of `explain.METHODS`, of one image at a time; or MATMUL or COPY, of which no other field matters.
      batch_size: images a step, over all devices.
      image_size: px.
      precision: one of PRECISIONS.
      devices: how many.
    """

    model: str
    mode: str
    batch_size: int
    image_size: int
    precision: str
    devices: int
