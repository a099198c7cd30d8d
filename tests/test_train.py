"""The run of epochs: told, saved, stopped and resumed."""

import json
import signal

import jax
import numpy as np
import optax
import pytest
from conftest import SIZE
from etils import epath

from pneumojax import calibration, checkpoint, devices, metrics
from pneumojax.errors import UserError
from pneumojax.evaluate import Evaluator
from pneumojax.step import create_model, create_optimizer, init_state, init_variables
from pneumojax.train import train


def records_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def facts_of(workdir):
    """What is saved beside the states that are kept, in order."""
    paths = sorted(workdir.glob("checkpoints/*/facts/metadata"), key=lambda path: int(path.parts[-3]))
    return [json.loads(path.read_text()) for path in paths]


def final_state(config, workdir, splits, layout):
    model, optimizer = create_model(config), create_optimizer(config, 6)
    like = init_state(init_variables(model, SIZE, 0), optimizer)
    with checkpoint.open_manager(workdir) as manager:
        return jax.device_get(checkpoint.restore_latest(manager, like, layout)[0])


@pytest.mark.parametrize(("resident", "schedule"), [("always", "cosine"), ("never", "cosine"), ("always", "plateau")])
def test_a_run_stopped_and_started_again_equals_one_that_was_not(config, splits, tmp_path, resident, schedule):
    """Stopped after an epoch was saved: bit for bit, line for line, by one means or the other.

    Of a plateau, after an epoch that was no better: the next one lowers the rate, if that was not forgotten.
    """
    done = 1
    if schedule == "plateau":
        # So slow that every image of val is called the same throughout: accuracy stays at a half.
        config.optimizer.update({"name": "rmsprop", "schedule": schedule, "learning_rate": 1e-5, "warmup_epochs": 0.0})
        config.model.batch_norm_momentum, config.epochs, done = 0.99, 4, 2
    layout = devices.layout(jax.devices()[:1])
    whole, broken = epath.Path(tmp_path / "whole"), epath.Path(tmp_path / "broken")
    for workdir in (whole, broken):
        workdir.mkdir()
    config.data.resident = "never"
    assert train(config, whole, splits, layout)

    batches = iter(range(1, 100))  # of val, two an epoch

    def read_and_stop(indices):
        if next(batches) == 2 * done:
            signal.raise_signal(signal.SIGTERM)  # of a scheduler, while the epoch is evaluated
        return splits["val"].read(indices)

    config.data.resident = resident
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        train(config, broken, splits | {"val": splits["val"]._replace(read=read_and_stop)}, layout)
    signal.signal(signal.SIGTERM, before)
    assert records_of(broken) == records_of(whole)[: 2 * done]
    assert train(config, broken, splits, layout)

    assert records_of(broken) == records_of(whole)
    a, b = (final_state(config, workdir, splits, layout) for workdir in (whole, broken))
    assert int(a.step) == 6 * config.epochs
    if schedule == "plateau":
        np.testing.assert_allclose([a.plateau.rate, a.plateau.best, a.plateau.stale], [0.3, 0.5, 1], rtol=1e-6)
    else:
        assert (a.plateau.rate, a.plateau.best, a.plateau.stale) == (1, 0, 0), "only what is asked for is followed"
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    for one, other in zip(facts_of(whole), facts_of(broken), strict=True):
        assert one == other
    assert not train(config, broken, splits, layout), "a complete run has nothing left to train"


def test_every_epoch_is_told_and_learning_shows(config, splits, tmp_path):
    config.epochs = 6
    workdir = epath.Path(tmp_path)
    train(config, workdir, splits, devices.layout())
    lines = records_of(workdir)
    assert [(line["epoch"], line["split"]) for line in lines] == [
        (epoch, split) for epoch in range(1, 7) for split in ("train", "val")
    ]
    assert all({"step", "bce", "accuracy", "auc"} <= set(line) for line in lines)
    assert lines[-2]["bce"] < lines[0]["bce"]
    assert any("tfevents" in path.name for path in (workdir / "tensorboard").iterdir())


def test_what_was_fitted_on_val_is_saved_with_the_checkpoint(config, splits, tmp_path):
    """The best model's own logits of val give it again."""
    workdir, layout = epath.Path(tmp_path), devices.layout(jax.devices()[:1])
    config.epochs = 4
    train(config, workdir, splits, layout)
    model = create_model(config)
    shapes = jax.eval_shape(lambda: init_variables(model, SIZE, 0))
    with jax.set_mesh(layout.mesh):
        variables, facts = checkpoint.restore_best(workdir, config.model, shapes, layout)
        logits = Evaluator(model, layout, config.evaluation.batch_size).outputs(variables, splits["val"]).logits
    assert facts["calibration"] == calibration.fit(splits["val"].labels, logits)._asdict()
    of_val = {line["epoch"]: line["auc"] for line in records_of(workdir) if line["split"] == "val"}
    assert facts["val"]["auc"] == of_val[facts["epoch"]] == metrics.auc(splits["val"].labels, logits)
    assert facts["best"]["auc"] == max(of_val[epoch] for epoch in of_val if epoch <= facts["epoch"])


def test_bfloat16_learns_in_a_float32_state(config, splits, tmp_path):
    config.model.dtype, config.epochs = "bfloat16", 4
    workdir = epath.Path(tmp_path)
    train(config, workdir, splits, devices.layout())
    lines = records_of(workdir)
    assert lines[-2]["bce"] < lines[0]["bce"]
    state = final_state(config, workdir, splits, devices.layout())
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32", "int32"}


def test_a_batch_larger_than_the_split_is_refused(config, splits, tmp_path):
    config.batch_size = 128
    with pytest.raises(UserError, match="larger than the 96 training images"):
        train(config, epath.Path(tmp_path), splits, devices.layout())


def test_a_batch_that_devices_cannot_share_is_refused(config, splits, tmp_path):
    config.batch_size = 12
    with pytest.raises(UserError, match="12 cannot be divided over 8 devices"):
        train(config, epath.Path(tmp_path), splits, devices.layout())


def test_a_run_that_diverges_stops_and_names_the_step(config, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(optax, "adam", lambda *_, **__: optax.sgd(1e30))
    with pytest.raises(UserError, match="diverged: the logits of step 1 are not finite"):
        train(config, epath.Path(tmp_path), splits, devices.layout())
