"""Checkpoints keep a run's latest and best states, restore them exactly, and detect damage."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pneumojax.models.classifier import init_variables
from pneumojax.models.configured import create_model
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.runtime.errors import UserError
from pneumojax.training import checkpoint, manifest
from pneumojax.training.optimizer import Plateau, create_optimizer
from pneumojax.training.step import init_state

LOGITS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def config():
    config = configs.load("m1")
    config.model.image_size = 16
    return config


@pytest.fixture
def state(config):
    return init_state(init_variables(create_model(config), 16, 0), create_optimizer(config, 3))


def save_all(workdir, config, state, used):
    """Save a state for each of `used`, which says whether it becomes the best."""
    with checkpoint.open_manager(workdir) as manager:
        for step, use in enumerate(used, start=1):
            facts = {"model": config.model.to_dict(), "calibration": {"temperature": step / 2}, "use": use}
            checkpoint.save(manager, checkpoint.Saved(numbered(state, step), LOGITS + step, facts))


def like(state):
    """Return the shapes to restore."""
    return checkpoint.Saved(state, np.zeros_like(LOGITS), {})


def numbered(state, step):
    """Return a stand-in for the state after `step` steps, in which every value differs."""
    return state.replace(
        step=jnp.int32(step),
        params=jax.tree.map(lambda x: x + step, state.params),
        opt_state=jax.tree.map(lambda x: x + step, state.opt_state),
        plateau=Plateau(jnp.float32(0.3**step), jnp.float32(step / 10), jnp.int32(step)),
    )


def test_the_last_two_and_the_best_are_kept(tmp_path, config, state):
    save_all(epath.Path(tmp_path), config, state, [True, True, False, False, False])
    with checkpoint.open_manager(epath.Path(tmp_path)) as manager:
        assert sorted(manager.all_steps()) == [2, 4, 5]


def test_the_latest_state_is_restored_completely(tmp_path, config, state):
    layout = sharding.layout()
    save_all(epath.Path(tmp_path), config, state, [True, True, False])
    with checkpoint.open_manager(epath.Path(tmp_path)) as manager:
        restored, logits, facts = checkpoint.restore_latest(manager, like(state), layout)
    assert int(restored.step) == 3
    assert facts["calibration"] == {"temperature": 1.5}
    np.testing.assert_array_equal(logits, LOGITS + 3)
    expected = numbered(state, 3)
    assert jax.tree.structure(restored) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == layout.replicated


def test_the_best_is_restored_with_its_calibration(tmp_path, config, state):
    save_all(epath.Path(tmp_path), config, state, [True, True, False])
    variables, facts = checkpoint.restore_best(epath.Path(tmp_path), config.model, state.variables, sharding.layout())
    assert facts["calibration"] == {"temperature": 1.0}
    np.testing.assert_array_equal(variables["params"]["dense_2"]["bias"], state.params["dense_2"]["bias"] + 2)


def test_another_model_or_size_is_refused(tmp_path, config, state):
    save_all(epath.Path(tmp_path), config, state, [True])
    for field, value, expected in (("name", "m2", "m2 at 16 pixels"), ("image_size", 32, "m1 at 32 pixels")):
        other = configs.with_fields(config, {f"model.{field}": value})
        with pytest.raises(UserError, match=f"holds a checkpoint of m1 at 16 pixels, not of {expected}"):
            checkpoint.restore_best(epath.Path(tmp_path), other.model, state.variables, sharding.layout())


def flip(path):
    """Change a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    """Remove the last byte of a file."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip, id="flipped"),
        pytest.param(cut, id="cut", marks=pytest.mark.slow),
        pytest.param(type(epath.Path()).unlink, id="missing"),
    ],
)
def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path, config, state, damage, capsys):
    """Whichever file is damaged, to predict and to continue training, which removes the damaged checkpoint."""
    workdir, layout = epath.Path(tmp_path), sharding.layout(jax.devices()[:1])
    save_all(workdir, config, state, [True, True, True])
    folder = workdir / "checkpoints/3"
    names = json.loads((folder / manifest.MANIFEST).read_text())
    written_later = {"_CHECKPOINT_METADATA", "commit_success.txt", manifest.MANIFEST}
    files = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}
    assert files == names.keys() | written_later
    for path in (folder / name for name in (*names, manifest.MANIFEST)):
        before = path.read_bytes()
        damage(path)
        _, facts = checkpoint.restore_best(workdir, config.model, state.variables, layout)
        assert facts["calibration"] == {"temperature": 1.0}, path
        printed = capsys.readouterr().out
        assert "checkpoints/3 is damaged" in printed and "step 2 is used" in printed
        path.write_bytes(before)
    damage(workdir / "checkpoints/3/model/manifest.ocdbt")
    assert checkpoint.last_epoch(workdir) is None and checkpoint.can_continue(workdir)
    with checkpoint.open_manager(workdir) as manager:
        assert int(checkpoint.restore_latest(manager, like(state), layout).state.step) == 2
        assert "checkpoint of step 3 is damaged (model/manifest.ocdbt is" in capsys.readouterr().out
        facts = {"model": config.model.to_dict(), "calibration": {"temperature": 9}, "use": True}
        checkpoint.save(manager, checkpoint.Saved(numbered(state, 3), LOGITS, facts))
    assert checkpoint.best_facts(workdir, config.model)["calibration"] == {"temperature": 9}


def test_if_all_are_damaged_the_error_says_so(tmp_path, config, state):
    workdir = epath.Path(tmp_path)
    save_all(workdir, config, state, [True])
    flip(workdir / "checkpoints/1/model/manifest.ocdbt")
    assert not checkpoint.can_continue(workdir)
    with pytest.raises(UserError, match="checkpoints/1 is damaged .*, and there is no other to use") as error:
        checkpoint.restore_best(workdir, config.model, state.variables, sharding.layout())
    assert "\n" not in str(error.value)
    with checkpoint.open_manager(workdir) as manager:
        assert checkpoint.restore_latest(manager, like(state), sharding.layout()) is None


def test_an_intact_checkpoint_of_another_form_is_reported(tmp_path, config, state):
    """Its files are as they were written, but Orbax cannot restore them."""
    workdir = epath.Path(tmp_path)
    save_all(workdir, config, state, [True])
    (workdir / "checkpoints/1/model/_METADATA").write_text("{}")
    manifest.write(workdir / "checkpoints/1")
    with pytest.raises(UserError, match="checkpoints/1 cannot be read") as error:
        checkpoint.restore_best(workdir, config.model, state.variables, sharding.layout())
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_is_reported(tmp_path, config, state):
    with checkpoint.open_manager(epath.Path(tmp_path)) as manager:
        assert checkpoint.restore_latest(manager, like(state), sharding.layout()) is None
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.restore_best(epath.Path(tmp_path), config.model, state.variables, sharding.layout())


def test_the_latest_that_is_used_is_the_best(tmp_path, config, state):
    """Also if one before it was not used, and if the manager was closed since."""
    save_all(epath.Path(tmp_path), config, state, [True, False, True])
    assert checkpoint.best_facts(epath.Path(tmp_path), config.model)["calibration"] == {"temperature": 1.5}


@pytest.mark.parametrize("signed", [True, False])
def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path, config, state, signed):
    """It lacks facts that later versions need. It is not removed."""
    workdir, layout = epath.Path(tmp_path), sharding.layout()
    save_all(workdir, config, state, [True])
    path = workdir / "checkpoints/1/facts/metadata"
    path.write_text(path.read_text().replace('"use"', '"other"'))
    if signed:
        manifest.write(workdir / "checkpoints/1")
    else:
        (workdir / "checkpoints/1" / manifest.MANIFEST).unlink()
    with checkpoint.open_manager(workdir) as manager, pytest.raises(UserError, match="trained by an earlier version"):
        checkpoint.restore_latest(manager, like(state), layout)
    with pytest.raises(UserError, match="trained by an earlier version: train again"):
        checkpoint.restore_best(workdir, config.model, state.variables, layout)
    assert path.exists()


def test_a_checkpoint_whose_removal_was_interrupted_is_passed_over(tmp_path, config, state, capsys):
    """Orbax removes the files at the top of the folder first. Training then removes the rest."""
    workdir, layout = epath.Path(tmp_path), sharding.layout()
    save_all(workdir, config, state, [True, True])
    for name in (manifest.MANIFEST, "_CHECKPOINT_METADATA"):
        (workdir / "checkpoints/2" / name).unlink()
    assert checkpoint.best_facts(workdir, config.model)["calibration"] == {"temperature": 0.5}
    with checkpoint.open_manager(workdir) as manager:
        assert int(checkpoint.restore_latest(manager, like(state), layout).state.step) == 1
    assert "checkpoint of step 2 is damaged (manifest.json is missing)" in capsys.readouterr().out


def test_only_training_removes_what_a_killed_process_was_saving(tmp_path, config, state):
    workdir = epath.Path(tmp_path)
    save_all(workdir, config, state, [True])
    unfinished = workdir / "checkpoints/2.orbax-checkpoint-tmp"
    (unfinished / "model").mkdir(parents=True)
    checkpoint.best_facts(workdir, config.model)
    assert unfinished.exists(), "another process may be saving it"
    with checkpoint.open_manager(workdir, to_train=True) as manager:
        assert int(checkpoint.restore_latest(manager, like(state), sharding.layout()).state.step) == 1
    assert not unfinished.exists()


def test_a_buckets_address_is_not_made_a_local_path():
    """Other processes of the job would not see a local folder."""
    assert str(checkpoint.folder_of(epath.Path("gs://bucket/runs/m1"))) == "gs://bucket/runs/m1/checkpoints"
    assert checkpoint.folder_of(epath.Path("runs/m1")).is_absolute()


def named(workdir, seed):
    """Give a workdir the config, and so the identity, of a run."""
    config = configs.with_fields(configs.load("m1"), {"seed": seed, "model.image_size": 16})
    configs.write(config, workdir / "config.json", configs.new_identity(config, "", ""))


def test_checkpoints_of_another_run_are_refused(tmp_path, config, state):
    """They have the same shapes, but other splits: val and test may be what they were trained on."""
    one, other, older = (epath.Path(tmp_path / name) for name in ("one", "other", "older"))
    layout = sharding.layout(jax.devices()[:1])
    for workdir, seed in ((one, 0), (other, 1)):
        named(workdir, seed)
        save_all(workdir, config, state, [True])
        assert checkpoint.best_facts(workdir, config.model)["run"]
    save_all(older, config, state, [True])
    for workdir in (other, older):
        (workdir / "config.json").write_bytes((one / "config.json").read_bytes())
        with pytest.raises(UserError, match=r"checkpoints/1 is of another run than .*config.json: bring back"):
            checkpoint.restore_best(workdir, config.model, state.variables, layout)
        with checkpoint.open_manager(workdir) as manager, pytest.raises(UserError, match="is of another run"):
            checkpoint.restore_latest(manager, like(state), layout)
        assert (workdir / "checkpoints/1").exists()


@pytest.mark.parametrize("content", ["", "[]", "3", "null", "{}", '{"model/_METADATA": [1]}', "[" * 10_000, "[[1]]"])
def test_a_damaged_manifest_is_damage(tmp_path, config, state, content):
    save_all(epath.Path(tmp_path), config, state, [True])
    (tmp_path / "checkpoints/1" / manifest.MANIFEST).write_text(content)
    assert manifest.damage(epath.Path(tmp_path / "checkpoints/1"))


@pytest.mark.parametrize("content", ["", "[]", "3", '"use"', "[" * 10_000])
def test_damaged_facts_are_damage(tmp_path, config, state, content):
    save_all(epath.Path(tmp_path), config, state, [True, True])
    (tmp_path / "checkpoints/2/facts/metadata").write_text(content)
    assert checkpoint.best_facts(epath.Path(tmp_path), config.model)["calibration"] == {"temperature": 0.5}


@pytest.mark.parametrize(
    "content", ["", "[]", '{"commit_timestamp_nsecs": []}', f'{{"commit_timestamp_nsecs": {10**30}}}']
)
def test_damaged_times_change_nothing(tmp_path, config, state, content):
    """Orbax writes them, and no other file depends on them."""
    workdir, layout = epath.Path(tmp_path), sharding.layout(jax.devices()[:1])
    save_all(workdir, config, state, [True, True])
    (workdir / "checkpoints/2/_CHECKPOINT_METADATA").write_text(content)
    checkpoint.restore_best(workdir, config.model, state.variables, layout)
    with checkpoint.open_manager(workdir, to_train=True) as manager:
        latest = checkpoint.restore_latest(manager, like(state), layout)
        assert int(latest.state.step) == 2
        checkpoint.save(manager, latest._replace(state=latest.state.replace(step=np.asarray(3))))
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "3"]


@pytest.mark.parametrize("name", ["model/_METADATA", "model/more", "facts/metadata"])
def test_a_pipe_in_a_checkpoint_is_damage_and_is_not_waited_for(tmp_path, config, state, name):
    save_all(epath.Path(tmp_path), config, state, [True])
    (tmp_path / "checkpoints/1" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "checkpoints/1" / name)
    assert manifest.damage(epath.Path(tmp_path / "checkpoints/1")) == f"{name} is no file"
