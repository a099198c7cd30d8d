"""The counts of parameters and bytes: by hand, as the paper prints them, and as XLA compiles the step."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from pneumojax.benchmark.flops import Shape
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import sharding
from pneumojax.training.optimizer import create_optimizer
from pneumojax.training.step import compile_step, init_state
from studies import traffic


@pytest.mark.parametrize(
    ("model", "expected"), [("m1", (1_245_313, 1_088)), ("m2", (3_665_857, 960)), ("m3", (12_200_065, 896))]
)
def test_parameters_are_the_papers(model: str, expected: tuple[int, int]) -> None:
    assert traffic.parameters(model, 150) == expected


def test_a_block_by_hand() -> None:
    """5 x 5 pixels, 2 channels in, 3 out: x has 50 values, a 75, y 3 x 3 x 3 = 27.

    Forward: x, a, extremes written and read, y. Backward: y's gradient, extremes, x, a, y's gradient, x's gradient.
    """
    assert traffic.block_training(Shape(5, 2, 3)) == (50 + 75 + 27 + 27 + 27) + (27 + 27 + 50 + 75 + 27 + 50)
    assert traffic.block_inference(Shape(5, 2, 3)) == 50 + 27


def test_a_first_block_by_hand() -> None:
    """5 x 5 pixels, 1 channel in, 3 out: neither activations nor a gradient of the image go through memory."""
    assert traffic.block_training(Shape(5, 1, 3)) == (25 + 27 + 27 + 27) + (27 + 27 + 25 + 27)


def test_m3_at_8_px_by_hand() -> None:
    """Sides 8, 4, 2, then 1: 256 features, read twice and their gradient written once."""
    first = 2 * 64 + 6 * 16 * 64
    second = 3 * 16 * 64 + 2 * 16 * 128 + 6 * 4 * 128
    third = 3 * 4 * 128 + 2 * 4 * 256 + 6 * 1 * 256
    values = 64 + first + second + third + 3 * 256
    assert traffic.image_bytes("m3", 8, train=True) == 64 + 4 * values
    assert traffic.image_bytes("m3", 8, train=True, value_bytes=2) == 64 + 2 * values
    inference = 64 + (64 + 16 * 64) + (16 * 64 + 4 * 128) + (4 * 128 + 256) + 256
    assert traffic.image_bytes("m3", 8, train=False) == 64 + 4 * inference
    trainable = 9 * (64 + 64 * 128 + 128 * 256) + 3 * (64 + 128 + 256) + 257 * 128 + 129
    assert traffic.step_bytes("m3", 8, train=True) == 40 * trainable
    assert traffic.step_bytes("m3", 8, train=False) == 4 * trainable


def test_a_ring_by_hand() -> None:
    """Two devices send each half of an array twice; one device sends nothing."""
    assert traffic.ring_bytes("m1", 150, 2) == 4 * 1_246_401
    assert traffic.ring_bytes("m1", 150, 8) == 7 * 1_246_401
    assert traffic.ring_bytes("m1", 150, 1) == 0


def test_the_compiled_step_reduces_as_much(config: ConfigDict) -> None:
    """XLA's program for two devices sums as many values, in as many all-reduces."""
    size = config.model.image_size
    layout = sharding.layout(jax.devices()[:2])
    model, optimizer = create_model(config), create_optimizer(config, steps_per_epoch=10)
    with jax.set_mesh(layout.mesh):
        state = jax.eval_shape(lambda: init_state(init_variables(model, size, 0), optimizer))
        batch = [jax.ShapeDtypeStruct(shape, jnp.uint8) for shape in ((4, size, size, 1), (4,))]
        step = compile_step(
            layout, model=model, optimizer=optimizer, strength=ConfigDict(dict.fromkeys(config.augment, 0.0)),
            weights=(1.0, 1.0), seed=0,
        )  # fmt: skip
        program = step.lower(state, *batch).compile().as_text() or ""
    reduced = re.findall(r" = (\S.*?) all-reduce(?:-start)?\(", program)
    values = [
        math.prod(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"f32\[([\d,]*)\]", "".join(reduced))
    ]
    assert len(reduced) == traffic.all_reduces("m1", size)
    assert sum(values) == sum(traffic.parameters("m1", size))
