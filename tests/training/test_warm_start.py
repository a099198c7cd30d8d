"""Start from a model's variables, with some layers frozen."""

import jax
import numpy as np
import pytest
from etils import epath
from support import SIZE

from pneumojax.models.architectures import FAMILY, layers_of
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.runtime.errors import UserError
from pneumojax.training import checkpoint, loop, training_settings

FROZEN = ("conv_1", "batch_norm_1", "dense_1")


@pytest.fixture(scope="module")
def start():
    """Variables that no seed of the tests draws."""
    config = configs.with_fields(configs.load("m1"), {"model.image_size": SIZE})
    return jax.tree.map(np.asarray, init_variables(create_model(config), SIZE, 77))


def trained(config, workdir, splits, **options):
    """Train one epoch, and return the variables."""
    layout = sharding.layout(jax.devices()[:1])
    loop.train(config, workdir, splits, layout, **options)
    with jax.set_mesh(layout.mesh):
        model = create_model(config)
        shapes = jax.eval_shape(lambda: init_variables(model, SIZE, 0))
        return jax.device_get(checkpoint.restore_best(workdir, config.model, shapes, layout)[0])


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


def test_frozen_layers_stay_as_they_start_and_others_do_not(config, splits, start, tmp_path):
    """The start has other variables than the run's seed draws."""
    config = configs.with_fields(config, {"epochs": 1, "freeze": " ,".join(FROZEN)})
    found = trained(config, epath.Path(tmp_path / "work"), splits, variables=start)["params"]
    for layer, own in found.items():
        assert equal(own, start["params"][layer]) == (layer in FROZEN), layer


@pytest.mark.parametrize(
    ("freeze", "holds"),
    [
        ("", True),
        ("conv_1", True),
        ("conv_1, batch_norm_5,dense_2", True),
        ("conv_6", False),
        ("conv1", False),
        (",".join(layers_of(FAMILY["m1"])), False),
    ],
)
def test_names_of_layers_are_checked(freeze, holds):
    config = configs.with_fields(configs.load("m1"), {"freeze": freeze})
    if holds:
        configs.check(config, [training_settings.rules])
    else:
        with pytest.raises(UserError, match="freeze"):
            configs.check(config, [training_settings.rules])
