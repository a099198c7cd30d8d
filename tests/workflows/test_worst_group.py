"""Whose operating points a run has: val's, or those of the worst group, by what the config asks for and its sites."""

import jax
import numpy as np
import pytest
from bundles import phantoms
from etils import epath
from support import SIZE

from pneumojax.data.source import SITE, Split
from pneumojax.evaluation import calibration, operating_points
from pneumojax.evaluation.forward import Evaluator
from pneumojax.inference.restore import Trained
from pneumojax.models.classifier import create, init_variables
from pneumojax.runtime import sharding
from pneumojax.workflows.worst_group import with_operating_points


@pytest.fixture(scope="module")
def images():
    return phantoms(48, SIZE)[..., None]


@pytest.fixture
def operate(images, tmp_path):
    """A function that returns whose operating points a model of random weights gets by `choice`, on images of `sites`.

    It may be called several times for one workdir.
    """
    layout, model = sharding.layout(jax.devices()[:1]), create("m3")
    variables = init_variables(model, SIZE, 0)
    labels = np.arange(len(images), dtype=np.uint8) % 2

    def operate(choice, *sites):
        groups = {SITE: np.repeat(sites, len(images) // len(sites))} if sites else {}
        val = Split("val", np.arange(len(images)).astype(str), labels, images.__getitem__, groups=groups)
        with jax.set_mesh(layout.mesh):
            evaluator = Evaluator(model, layout, 16)
            fitted = calibration.fit(labels.astype(int), evaluator.outputs(variables, val).logits)
            trained = Trained(model, variables, fitted, epoch=1)
            found = with_operating_points(choice, epath.Path(tmp_path), val, evaluator, trained)
        chosen = operating_points.read(epath.Path(tmp_path), 1)
        assert found.calibration == (chosen.calibration if chosen else fitted)
        return {name for name, *_ in chosen.groups} if chosen else "val"

    return operate


def test_by_default_sites_decide(operate):
    assert operate("auto") == operate("auto", "one") == "val"
    assert {"one clean", "two clean", "one dark", "two dark"} <= operate("auto", "one", "two")


def test_the_user_decides(operate):
    assert {"clean", "dark"} <= operate("worst")
    assert operate("val") == "val", "it goes back"
    assert operate("val", "one", "two") == "val"
