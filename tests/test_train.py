"""The run of epochs: told, saved, stopped and resumed."""

import json
import signal

import jax
import numpy as np
import optax
import pytest
from conftest import SIZE, small_config
from etils import epath

from pneumojax import calibration, checkpoint, devices, metrics
from pneumojax.dispatch import choose
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
    saved = checkpoint.Saved(like, np.zeros((6, config.batch_size), np.float32), {})
    with checkpoint.open_manager(workdir) as manager:
        return jax.device_get(checkpoint.restore_latest(manager, saved, layout).state)


@pytest.fixture(scope="session")
def layout():
    """One device: what is compiled for eight takes long."""
    return devices.layout(jax.devices()[:1])


def trained_whole(config, folder, splits, layout):
    """The workdir of a run that nothing stops."""
    workdir = epath.Path(folder) / "whole"
    workdir.mkdir()
    assert train(config, workdir, splits, layout)
    return workdir


@pytest.fixture(scope="session")
def undisturbed(splits, layout, tmp_path_factory):
    """`trained_whole` by the fixture `config`, with the split in memory ("always") and fed by the loader ("never")."""

    def trained(resident):
        config = small_config()
        config.data.resident = resident
        return trained_whole(config, tmp_path_factory.mktemp("undisturbed"), splits, layout)

    return {resident: trained(resident) for resident in ("always", "never")}


def test_a_run_stopped_and_started_again_equals_one_that_was_not(config, splits, tmp_path, layout, undisturbed):
    """Stopped after an epoch was saved: bit for bit, line for line."""
    config.data.resident = "always"
    final = equal_when_stopped(config, splits, tmp_path, layout, undisturbed["always"], done=1)
    assert (final.plateau.rate, final.plateau.best, final.plateau.stale) == (1, 0, 0), "nothing is followed unasked"


def test_what_a_plateau_has_seen_is_not_forgotten(config, splits, tmp_path, layout):
    """Stopped after an epoch that was no better: the next one lowers the rate. Fed by the loader."""
    config.data.resident = "never"
    # So slow that every image of val is called the same throughout: accuracy stays at a half.
    config.optimizer.update({"name": "rmsprop", "schedule": "plateau", "learning_rate": 1e-5, "warmup_epochs": 0.0})
    config.model.batch_norm_momentum, config.epochs = 0.99, 4
    whole = trained_whole(config, tmp_path, splits, layout)
    final = equal_when_stopped(config, splits, tmp_path, layout, whole, done=2)
    np.testing.assert_allclose([final.plateau.rate, final.plateau.best, final.plateau.stale], [0.3, 0.5, 1], rtol=1e-6)


def equal_when_stopped(config, splits, tmp_path, layout, whole, done):
    """Holds a run that is stopped after epoch `done`, and then goes on, to the one in `whole`; its final state."""
    broken = epath.Path(tmp_path / "broken")
    broken.mkdir()
    batches = iter(range(1, 100))  # of val, two an epoch

    def read_and_stop(indices):
        if next(batches) == 2 * done:
            signal.raise_signal(signal.SIGTERM)  # of a scheduler, while the epoch is evaluated
        return splits["val"].read(indices)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        train(config, broken, splits | {"val": splits["val"]._replace(read=read_and_stop)}, layout)
    signal.signal(signal.SIGTERM, before)
    assert records_of(broken) == records_of(whole)[: 2 * done]
    assert train(config, broken, splits, layout)

    assert records_of(broken) == records_of(whole)
    a, b = (final_state(config, workdir, splits, layout) for workdir in (whole, broken))
    assert int(a.step) == 6 * config.epochs
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    for one, other in zip(facts_of(whole), facts_of(broken), strict=True):
        assert one == other
    assert not train(config, broken, splits, layout), "a complete run has nothing left to train"
    return a


def stopping_at(number):
    """Steps as they are chosen, but for a scheduler's signal that comes with one of them."""

    def chosen(*given, **fixed):
        dispatch = choose(*given, **fixed)

        def run(state, step, count):
            if step == number:
                signal.raise_signal(signal.SIGTERM)
            return dispatch.run(state, step, count)

        return dispatch._replace(run=run)

    return chosen


@pytest.fixture
def stopped(config, splits, layout, monkeypatch):
    """A function that trains until a signal comes with the step of a number."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def run(workdir, number):
        with monkeypatch.context() as patched:
            patched.setattr("pneumojax.train.choose", stopping_at(number))
            with pytest.raises(KeyboardInterrupt):
                train(config, workdir, splits, layout)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_run_stopped_within_epochs_equals_one_that_was_not(
    config, splits, tmp_path, layout, undisturbed, stopped, resident
):
    """At the first step of all, at an epoch's last one, and in the midst: each start goes on to the next stop."""
    config.data.resident = resident
    whole, broken = undisturbed[resident], epath.Path(tmp_path / "broken")
    broken.mkdir()
    for number, reached in ((0, 1), (5, 6), (8, 9)):
        stopped(broken, number)
        assert int(final_state(config, broken, splits, layout).step) == reached
    assert train(config, broken, splits, layout)
    assert records_of(broken) == records_of(whole)
    a, b = (final_state(config, workdir, splits, layout) for workdir in (whole, broken))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    for one, other in zip(facts_of(whole)[-2:], facts_of(broken)[-2:], strict=True):
        assert one == other
    assert checkpoint.best_facts(whole, config.model) == checkpoint.best_facts(broken, config.model)


def test_a_signal_is_not_held_back_by_a_long_val(config, splits, tmp_path, layout, undisturbed, monkeypatch):
    """Val is left, and the epoch gone on with from what was saved within it."""
    monkeypatch.setattr("pneumojax.train.PATIENCE_S", 0)
    config.data.resident, config.checkpoint.steps = "never", 4
    broken, read = epath.Path(tmp_path), []

    def read_and_stop(indices):
        read.append(len(indices))
        signal.raise_signal(signal.SIGTERM)
        return splits["val"].read(indices)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt):
        train(config, broken, splits | {"val": splits["val"]._replace(read=read_and_stop)}, layout)
    signal.signal(signal.SIGTERM, before)
    assert sum(read) < 2 * len(splits["val"].ids)
    assert int(final_state(config, broken, splits, layout).step) == 4
    assert records_of(broken) == []
    assert train(config, broken, splits, layout)
    assert records_of(broken) == records_of(undisturbed["never"])


def test_a_signal_while_the_last_state_is_saved_waits_for_it(config, splits, tmp_path, layout, monkeypatch):
    close = checkpoint.ocp.CheckpointManager.close

    def close_and_stop(manager):
        signal.raise_signal(signal.SIGTERM)
        close(manager)

    config.epochs = 1
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("orbax.checkpoint.CheckpointManager.close", close_and_stop)
        train(config, epath.Path(tmp_path), splits, layout)
    signal.signal(signal.SIGTERM, before)
    assert not train(config, epath.Path(tmp_path), splits, layout), "all of it was saved"


def test_within_an_epoch_nothing_is_used(config, tmp_path, stopped):
    """Before the first epoch has ended there is no model to use; after it, that one, whatever was saved since."""
    workdir = epath.Path(tmp_path)
    stopped(workdir, 3)
    with pytest.raises(UserError, match="no checkpoint in .* of a whole epoch"):
        checkpoint.best_facts(workdir, config.model)
    stopped(workdir, 9)
    assert checkpoint.best_facts(workdir, config.model)["epoch"] == 1


@pytest.mark.parametrize("by", ["steps", "minutes"])
def test_states_are_saved_within_epochs_as_often_as_is_asked_for(config, splits, tmp_path, layout, monkeypatch, by):
    """Every fourth step and at epochs' ends; or, of minutes that are over at once, after every step."""
    config.checkpoint.update({"steps": 4, "minutes": 0.0} if by == "steps" else {"steps": 0, "minutes": 1e-9})
    config.epochs = 2
    steps, save = [], checkpoint.save

    def watched(manager, saved):
        steps.append(int(saved.state.step))
        save(manager, saved)

    monkeypatch.setattr(checkpoint, "save", watched)
    train(config, epath.Path(tmp_path), splits, layout)
    assert steps == ([4, 6, 8, 12] if by == "steps" else list(range(1, 13)))


def test_every_epoch_is_told_and_learning_shows(undisturbed):
    lines = records_of(undisturbed["never"])
    assert [(line["epoch"], line["split"]) for line in lines] == [
        (epoch, split) for epoch in range(1, 4) for split in ("train", "val")
    ]
    assert all({"step", "bce", "accuracy", "auc"} <= set(line) for line in lines)
    assert lines[-2]["bce"] < lines[0]["bce"]
    assert any("tfevents" in path.name for path in (undisturbed["never"] / "tensorboard").iterdir())


def test_what_was_fitted_on_val_is_saved_with_the_checkpoint(config, splits, layout, undisturbed):
    """The best model's own logits of val give it again."""
    workdir = undisturbed["never"]
    model = create_model(config)
    shapes = jax.eval_shape(lambda: init_variables(model, SIZE, 0))
    with jax.set_mesh(layout.mesh):
        variables, facts = checkpoint.restore_best(workdir, config.model, shapes, layout)
        logits = Evaluator(model, layout, config.evaluation.batch_size).outputs(variables, splits["val"]).logits
    assert facts["calibration"] == calibration.fit(splits["val"].labels, logits)._asdict()
    of_val = {line["epoch"]: line["auc"] for line in records_of(workdir) if line["split"] == "val"}
    assert facts["val"]["auc"] == of_val[facts["epoch"]] == metrics.auc(splits["val"].labels, logits)
    assert facts["best"]["auc"] == max(of_val[epoch] for epoch in of_val if epoch <= facts["epoch"])


def test_bfloat16_learns_in_a_float32_state(config, splits, tmp_path, layout):
    config.model.dtype = "bfloat16"
    workdir = epath.Path(tmp_path)
    train(config, workdir, splits, layout)
    lines = records_of(workdir)
    assert lines[-2]["bce"] < lines[0]["bce"]
    state = final_state(config, workdir, splits, layout)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(state)} == {"float32", "int32"}


def test_a_batch_larger_than_the_split_is_refused(config, splits, tmp_path, layout):
    config.batch_size = 128
    with pytest.raises(UserError, match="larger than the 96 training images"):
        train(config, epath.Path(tmp_path), splits, layout)


def test_a_batch_that_devices_cannot_share_is_refused(config, splits, tmp_path):
    config.batch_size = 12
    with pytest.raises(UserError, match="12 cannot be divided over 8 devices"):
        train(config, epath.Path(tmp_path), splits, devices.layout())


def test_a_run_that_diverges_stops_and_names_the_step(config, splits, tmp_path, layout, monkeypatch):
    monkeypatch.setattr(optax, "adam", lambda *_, **__: optax.sgd(1e30))
    with pytest.raises(UserError, match="diverged: what step 1 gives is not finite"):
        train(config, epath.Path(tmp_path), splits, layout)
