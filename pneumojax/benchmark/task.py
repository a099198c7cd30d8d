"""What is measured at a time."""

from typing import NamedTuple

OURS = "pneumojax"
TRAIN, AUGMENTED, INFER = "train", "train, augmented", "infer"
FEED, FED = "feed", "feed + train, augmented"
MATMUL = "matmul"
MODES = (TRAIN, AUGMENTED, INFER, FEED, FED)


class Task(NamedTuple):
    """One thing to measure: a step of `mode`, or the feed, or a large matrix product (of which only devices matter).

    Attributes:
      model: "m1", "m2" or "m3".
      mode: one of MODES, or MATMUL.
      batch_size: images a step, over all devices.
      image_size: px.
      precision: "float32" or "bfloat16".
      devices: how many.
    """

    model: str
    mode: str
    batch_size: int
    image_size: int
    precision: str
    devices: int
