"""A run of epochs is reported, saved, stopped and resumed, and resuming changes no bit of it."""

import json
import signal

import jax
import numpy as np
import optax
import pytest
from etils import epath
from support import SIZE, small_config

from pneumojax.evaluation import calibration, metrics
from pneumojax.evaluation.forward import Evaluator
from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import sharding
from pneumojax.runtime.errors import UserError
from pneumojax.training import checkpoint
from pneumojax.training.batches import choose
from pneumojax.training.loop import train
from pneumojax.training.optimizer import create_optimizer, learning_rate
from pneumojax.training.step import init_state


def records_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def facts_of(workdir):
    """Read the facts of the kept checkpoints, in order."""
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
    """Use one device: compiling for eight takes long."""
    return sharding.layout(jax.devices()[:1])


def trained_whole(config, folder, splits, layout):
    """Train without a stop, and return the workdir."""
    workdir = epath.Path(folder) / "whole"
    workdir.mkdir()
    assert train(config, workdir, splits, layout)
    return workdir


@pytest.fixture(scope="session")
def undisturbed(splits, layout, tmp_path_factory):
    """Return the workdirs of `trained_whole` with the split in memory ("always") and fed by the loader ("never")."""

    def trained(resident):
        config = small_config()
        config.data.resident = resident
        return trained_whole(config, tmp_path_factory.mktemp("undisturbed"), splits, layout)

    return {resident: trained(resident) for resident in ("always", "never")}


def test_a_run_stopped_and_started_again_equals_one_that_was_not(config, splits, tmp_path, layout, undisturbed):
    """Bit for bit and line for line, when it is stopped after an epoch was saved."""
    config.data.resident = "always"
    final = equal_when_stopped(config, splits, tmp_path, layout, undisturbed["always"], done=1)
    assert (final.plateau.rate, final.plateau.best, final.plateau.stale) == (1, 0, 0), (
        "the plateau changes only if the config asks for it"
    )


@pytest.mark.slow
def test_a_stop_does_not_lose_the_state_of_the_plateau(config, splits, tmp_path, layout):
    """The run, fed by the loader, is stopped after an epoch without improvement. The next one lowers the rate."""
    config.data.resident = "never"
    # So slow that the same class is predicted for every image of val: the accuracy stays at 0.5.
    config.optimizer.update({"name": "rmsprop", "schedule": "plateau", "learning_rate": 1e-5, "warmup_epochs": 0.0})
    config.model.batch_norm_momentum, config.epochs = 0.99, 4
    whole = trained_whole(config, tmp_path, splits, layout)
    final = equal_when_stopped(config, splits, tmp_path, layout, whole, done=2)
    np.testing.assert_allclose([final.plateau.rate, final.plateau.best, final.plateau.stale], [0.3, 0.5, 1], rtol=1e-6)


def equal_when_stopped(config, splits, tmp_path, layout, whole, done):
    """Stop a run after epoch `done`, resume it, compare it with the one in `whole`, and return its final state."""
    broken = epath.Path(tmp_path / "broken")
    broken.mkdir()
    batches = iter(range(1, 100))  # of val, two an epoch

    def read_and_stop(indices):
        if next(batches) == 2 * done:
            signal.raise_signal(signal.SIGTERM)  # from a scheduler, while the epoch is evaluated
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
    assert facts_of(whole) == facts_of(broken)
    assert not train(config, broken, splits, layout), "a complete run has nothing left to train"
    return a


def stopping_at(number):
    """Return a `choose` whose steps raise a scheduler's signal at step `number`."""

    def chosen(*args, **fixed):
        dispatch = choose(*args, **fixed)

        def run(state, step, count):
            if step == number:
                signal.raise_signal(signal.SIGTERM)
            return dispatch.run(state, step, count)

        return dispatch._replace(run=run)

    return chosen


@pytest.fixture
def stopped(config, splits, layout, monkeypatch):
    """Return a function that trains until a signal comes at a given step."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def run(workdir, number):
        with monkeypatch.context() as patched:
            patched.setattr("pneumojax.training.loop.choose", stopping_at(number))
            with pytest.raises(KeyboardInterrupt):
                train(config, workdir, splits, layout)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("resident", ["never", pytest.param("always", marks=pytest.mark.slow)])
def test_a_run_stopped_within_epochs_equals_one_that_was_not(
    config, splits, tmp_path, layout, undisturbed, stopped, resident
):
    """It is stopped at the first step, at the last step of an epoch and within one, and resumed each time."""
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
    assert facts_of(whole)[-2:] == facts_of(broken)[-2:]
    assert checkpoint.best_facts(whole, config.model) == checkpoint.best_facts(broken, config.model)


def test_a_signal_stops_an_evaluation_that_exceeds_the_grace_period(config, splits, tmp_path, layout, undisturbed):
    """The evaluation of val is dropped, and the epoch continues from what was saved within it."""
    config.data.resident, config.checkpoint.steps = "never", 4
    broken, read = epath.Path(tmp_path), []

    def read_and_stop(indices):
        read.append(len(indices))
        signal.raise_signal(signal.SIGTERM)
        return splits["val"].read(indices)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt):
        train(config, broken, splits | {"val": splits["val"]._replace(read=read_and_stop)}, layout, grace_s=0)
    signal.signal(signal.SIGTERM, before)
    assert sum(read) < 2 * len(splits["val"].ids)
    assert int(final_state(config, broken, splits, layout).step) == 4
    assert records_of(broken) == []
    assert train(config, broken, splits, layout)
    assert records_of(broken) == records_of(undisturbed["never"])


def test_a_signal_while_the_last_state_is_saved_waits_for_it(config, splits, tmp_path, layout, monkeypatch):
    close = checkpoint.Manager.close

    def close_and_stop(manager):
        signal.raise_signal(signal.SIGTERM)
        close(manager)

    config.epochs = 1
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint.Manager, "close", close_and_stop)
        train(config, epath.Path(tmp_path), splits, layout)
    signal.signal(signal.SIGTERM, before)
    assert not train(config, epath.Path(tmp_path), splits, layout), "the last state was saved"


def test_within_an_epoch_nothing_is_used(config, tmp_path, stopped):
    """Before the first epoch has ended there is no model to use. After it, checkpoints within epochs are not used."""
    workdir = epath.Path(tmp_path)
    stopped(workdir, 3)
    with pytest.raises(UserError, match="no checkpoint in .* of a whole epoch"):
        checkpoint.best_facts(workdir, config.model)
    stopped(workdir, 9)
    assert checkpoint.best_facts(workdir, config.model)["epoch"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("by", ["steps", "minutes"])
def test_states_are_saved_within_epochs_as_often_as_the_config_says(config, splits, tmp_path, layout, monkeypatch, by):
    """After every fourth step and each epoch; or after every step, where the minutes are over at once."""
    config.checkpoint.update({"steps": 4, "minutes": 0.0} if by == "steps" else {"steps": 0, "minutes": 1e-9})
    config.epochs = 2
    steps, save = [], checkpoint.save

    def watched(manager, saved):
        steps.append(int(saved.state.step))
        save(manager, saved)

    monkeypatch.setattr(checkpoint, "save", watched)
    train(config, epath.Path(tmp_path), splits, layout)
    assert steps == ([4, 6, 8, 12] if by == "steps" else list(range(1, 13)))


def test_every_epoch_is_reported_and_training_learns(config, undisturbed):
    lines = records_of(undisturbed["never"])
    assert [(line["epoch"], line["split"]) for line in lines] == [
        (epoch, split) for epoch in range(1, 4) for split in ("train", "val")
    ]
    assert all({"step", "bce", "accuracy", "auc"} <= set(line) for line in lines)
    assert lines[-2]["bce"] < lines[0]["bce"]
    schedule = learning_rate(config, 6)
    rates = [line["learning_rate"] for line in lines if line["split"] == "train"]
    assert rates == [float(schedule(step)) for step in (5, 11, 17)], "that of each epoch's last step"
    assert any("tfevents" in path.name for path in (undisturbed["never"] / "tensorboard").iterdir())


def test_the_calibration_on_val_is_saved_with_the_checkpoint(config, splits, layout, undisturbed):
    """Fitting it again to the restored model's logits of val gives the same."""
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
        train(config, epath.Path(tmp_path), splits, sharding.layout())


def test_a_run_that_diverges_stops_and_names_the_step(config, splits, tmp_path, layout, monkeypatch):
    monkeypatch.setattr(optax, "adam", lambda *_, **__: optax.sgd(1e30))
    with pytest.raises(UserError, match="diverged: the result of step 1 is not finite"):
        train(config, epath.Path(tmp_path), splits, layout)


def test_the_epochs_lines_fit_a_terminal_below_one_header(config, splits, tmp_path, layout, capsys):
    """Each number is below its name, within 80 columns."""
    config.epochs = 2
    train(config, epath.Path(tmp_path), splits, layout)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["epoch", "train", "bce", "acc", "auc", "val", "bce", "acc", "auc", "lr", "images/s"]
    assert [row.split()[0] for row in rows] == ["1/2", "2/2"]
    train_line, val_line = records_of(tmp_path)[:2]
    expected = [f"{line[name]:.4f}" for line in (train_line, val_line) for name in ("bce", "accuracy", "auc")]
    assert rows[0].split()[1:8] == [*expected, f"{train_line['learning_rate']:.1e}"]
    assert {len(line) for line in (header, *rows)} == {78}
