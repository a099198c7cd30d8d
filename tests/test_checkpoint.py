"""What is kept of a run, and what is given back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from pneumojax import checkpoint, devices
from pneumojax import config as configs
from pneumojax.errors import UserError
from pneumojax.step import Plateau, create_model, create_optimizer, init_state, init_variables

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
    """Saves one state for each of `used`: whether it is to be the best."""
    with checkpoint.open_manager(workdir) as manager:
        for step, use in enumerate(used, start=1):
            facts = {"model": config.model.to_dict(), "calibration": {"temperature": step / 2}, "use": use}
            checkpoint.save(manager, checkpoint.Saved(numbered(state, step), LOGITS + step, facts))


def like(state):
    """What is restored is shaped as this."""
    return checkpoint.Saved(state, np.zeros_like(LOGITS), {})


def numbered(state, step):
    """The state as it is taken to be after so many steps: nothing of it is as it was."""
    return state.replace(
        step=jnp.int32(step),
        params=jax.tree.map(lambda x: x + step, state.params),
        opt_state=jax.tree.map(lambda x: x + step, state.opt_state),
        plateau=Plateau(jnp.float32(0.3**step), jnp.float32(step / 10), jnp.int32(step)),
    )


def test_the_last_two_and_the_best_stay(tmp_path, config, state):
    save_all(epath.Path(tmp_path), config, state, [True, True, False, False, False])
    with checkpoint.open_manager(epath.Path(tmp_path)) as manager:
        assert sorted(manager.all_steps()) == [2, 4, 5]


def test_the_latest_state_comes_back_whole(tmp_path, config, state):
    layout = devices.layout()
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
        assert a.sharding == layout.everywhere


def test_the_best_is_used_with_its_own_calibration(tmp_path, config, state):
    save_all(epath.Path(tmp_path), config, state, [True, True, False])
    variables, facts = checkpoint.restore_best(epath.Path(tmp_path), config.model, state.variables, devices.layout())
    assert facts["calibration"] == {"temperature": 1.0}
    np.testing.assert_array_equal(variables["params"]["dense_2"]["bias"], state.params["dense_2"]["bias"] + 2)


def test_another_model_or_size_is_refused(tmp_path, config, state):
    save_all(epath.Path(tmp_path), config, state, [True])
    for field, value, says in (("name", "m2", "m2 at 16 pixels"), ("image_size", 32, "m1 at 32 pixels")):
        other = config.copy_and_resolve_references()
        other.model[field] = value
        with pytest.raises(UserError, match=f"holds a checkpoint of m1 at 16 pixels, not of {says}"):
            checkpoint.restore_best(epath.Path(tmp_path), other.model, state.variables, devices.layout())


def flip(path):
    """Changes a bit in the midst of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def signed_anew(folder):
    (folder / checkpoint.MANIFEST).unlink()
    checkpoint._write_manifests(folder.parent)


@pytest.mark.parametrize("damage", [flip, cut, type(epath.Path()).unlink], ids=["flipped", "cut", "missing"])
def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path, config, state, damage, capsys):
    """Whichever file it is, and to go on from as to predict by; what takes its place is removed first."""
    workdir, layout = epath.Path(tmp_path), devices.layout(jax.devices()[:1])
    save_all(workdir, config, state, [True, True, True])
    folder = workdir / "checkpoints/3"
    names = json.loads((folder / checkpoint.MANIFEST).read_text())
    written_later = {"_CHECKPOINT_METADATA", "commit_success.txt", checkpoint.MANIFEST}
    assert {path.relative_to(folder).as_posix() for path in checkpoint._files(folder)} == names.keys() | written_later
    for path in (folder / name for name in (*names, checkpoint.MANIFEST)):
        before = path.read_bytes()
        damage(path)
        _, facts = checkpoint.restore_best(workdir, config.model, state.variables, layout)
        assert facts["calibration"] == {"temperature": 1.0}, path
        assert "checkpoints/3 is damaged" in (told := capsys.readouterr().out) and "step 2 is used" in told
        path.write_bytes(before)
    damage(workdir / "checkpoints/3/model/manifest.ocdbt")
    with checkpoint.open_manager(workdir) as manager:
        assert int(checkpoint.restore_latest(manager, like(state), layout).state.step) == 2
        assert "checkpoint of step 3 is damaged (model/manifest.ocdbt is" in capsys.readouterr().out
        facts = {"model": config.model.to_dict(), "calibration": {"temperature": 9}, "use": True}
        checkpoint.save(manager, checkpoint.Saved(numbered(state, 3), LOGITS, facts))
    assert checkpoint.best_facts(workdir, config.model)["calibration"] == {"temperature": 9}


def test_where_all_are_damaged_that_is_told(tmp_path, config, state):
    workdir = epath.Path(tmp_path)
    save_all(workdir, config, state, [True])
    flip(workdir / "checkpoints/1/model/manifest.ocdbt")
    with pytest.raises(UserError, match="checkpoints/1 is damaged .*, and there is no other to use") as error:
        checkpoint.restore_best(workdir, config.model, state.variables, devices.layout())
    assert "\n" not in str(error.value)
    with checkpoint.open_manager(workdir) as manager:
        assert checkpoint.restore_latest(manager, like(state), devices.layout()) is None


def test_one_of_another_form_is_named(tmp_path, config, state):
    """Sound, and yet not what is asked for."""
    workdir = epath.Path(tmp_path)
    save_all(workdir, config, state, [True])
    (workdir / "checkpoints/1/model/_METADATA").write_text("{}")
    signed_anew(workdir / "checkpoints/1")
    with pytest.raises(UserError, match="checkpoints/1 cannot be read") as error:
        checkpoint.restore_best(workdir, config.model, state.variables, devices.layout())
    assert "\n" not in str(error.value)


def test_nothing_saved_is_told(tmp_path, config, state):
    with checkpoint.open_manager(epath.Path(tmp_path)) as manager:
        assert checkpoint.restore_latest(manager, like(state), devices.layout()) is None
    with pytest.raises(UserError, match="no checkpoint in"):
        checkpoint.restore_best(epath.Path(tmp_path), config.model, state.variables, devices.layout())


def test_the_latest_that_is_used_is_the_best(tmp_path, config, state):
    """Also where one between was not, and after a new start of the process."""
    save_all(epath.Path(tmp_path), config, state, [True, False, True])
    assert checkpoint.best_facts(epath.Path(tmp_path), config.model)["calibration"] == {"temperature": 1.5}


@pytest.mark.parametrize("signed", [True, False])
def test_an_earlier_version_is_told_of(tmp_path, config, state, signed):
    """Neither is it gone on from nor used: what it saved lacks what later versions hang on. Nor is it removed."""
    workdir, layout = epath.Path(tmp_path), devices.layout()
    save_all(workdir, config, state, [True])
    path = workdir / "checkpoints/1/facts/metadata"
    path.write_text(path.read_text().replace('"use"', '"other"'))
    if signed:
        signed_anew(workdir / "checkpoints/1")
    else:
        (workdir / "checkpoints/1/manifest.json").unlink()
    with checkpoint.open_manager(workdir) as manager, pytest.raises(UserError, match="trained by an earlier version"):
        checkpoint.restore_latest(manager, like(state), layout)
    with pytest.raises(UserError, match="trained by an earlier version: train anew"):
        checkpoint.restore_best(workdir, config.model, state.variables, layout)
    assert path.exists()


def test_one_whose_removal_was_cut_off_is_passed_over(tmp_path, config, state, capsys):
    """As Orbax removes one: what lies at its top first. The latest is removed where damage was found in it."""
    workdir, layout = epath.Path(tmp_path), devices.layout()
    save_all(workdir, config, state, [True, True])
    for name in (checkpoint.MANIFEST, "_CHECKPOINT_METADATA"):
        (workdir / "checkpoints/2" / name).unlink()
    assert checkpoint.best_facts(workdir, config.model)["calibration"] == {"temperature": 0.5}
    with checkpoint.open_manager(workdir) as manager:
        assert int(checkpoint.restore_latest(manager, like(state), layout).state.step) == 1
    assert "checkpoint of step 2 is damaged (manifest.json is missing)" in capsys.readouterr().out


def test_what_a_killed_process_was_saving_is_removed_by_the_next_training_alone(tmp_path, config, state):
    workdir = epath.Path(tmp_path)
    save_all(workdir, config, state, [True])
    cut_off = workdir / "checkpoints/2.orbax-checkpoint-tmp"
    (cut_off / "model").mkdir(parents=True)
    checkpoint.best_facts(workdir, config.model)
    assert cut_off.exists(), "another process may be saving it"
    with checkpoint.open_manager(workdir, to_train=True) as manager:
        assert int(checkpoint.restore_latest(manager, like(state), devices.layout()).state.step) == 1
    assert not cut_off.exists()


def test_a_bucket_stays_where_it_is():
    """As a path of this machine, it would be a folder here, which nobody else sees."""
    assert str(checkpoint.folder_of(epath.Path("gs://bucket/runs/m1"))) == "gs://bucket/runs/m1/checkpoints"
    assert checkpoint.folder_of(epath.Path("runs/m1")).is_absolute()
