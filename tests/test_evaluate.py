"""Evaluation: every image once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SIZE
from etils import epath

from pneumojax import devices, evaluate, metrics
from pneumojax.calibration import Calibration
from pneumojax.evaluate import Evaluator, eval_step
from pneumojax.step import create_model, init_variables


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100])
def test_every_image_is_evaluated_once_whatever_the_batch(config, splits, batch_size):
    """Padding fills the last batch and never reaches a metric."""
    model = create_model(config)
    variables = init_variables(model, SIZE, 0)
    layout = devices.layout()
    with jax.set_mesh(layout.mesh):
        logits, features = Evaluator(model, layout, batch_size).outputs(variables, splits["val"])
    everything = splits["val"].read(np.arange(len(splits["val"].ids)))
    expected = eval_step(model, variables, jnp.asarray(everything))
    np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features, expected[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        logits, model.apply(variables, everything / np.float32(255), train=False), rtol=1e-4, atol=1e-5
    )
    assert features.shape == (len(logits), 128)


def test_the_files_hold_the_sources_notice_and_every_probability(splits, tmp_path):
    split = splits["test"]
    logits = np.linspace(-3, 3, len(split.ids))
    for notice in ("Synthetic.", None):
        fitted = Calibration(temperature=2.0, threshold=0.5, threshold_sens95=0.25, prevalence=0.5, offset=1.0)
        told = {"epoch": 3, "source": "/somewhere"} | ({"notice": notice} if notice else {})
        evaluate.write(epath.Path(tmp_path), "test", split, logits, fitted, told)
        found = evaluate.read(epath.Path(tmp_path))["test"]
        assert found.get("notice") == notice
        assert (found["epoch"], found["threshold"]) == (3, 0.5)
        labels, probabilities = found["scores"]
        np.testing.assert_array_equal(labels, split.labels)
        np.testing.assert_array_equal(found["ids"], split.ids)
        np.testing.assert_array_equal(probabilities, metrics.probabilities(logits, 2.0, 1.0))
