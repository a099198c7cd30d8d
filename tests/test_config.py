"""Configs by name, recipe and path; overrides; what is refused, and how it is said."""

import pytest
from etils import epath

from pneumojax import config as configs
from pneumojax.errors import UserError


@pytest.mark.parametrize("name", ["m1", "m2", "m3"])
@pytest.mark.parametrize("recipe", ["recommended", "28px", "notebook", "paper"])
def test_every_shipped_config_is_valid(name, recipe):
    config = configs.load(f"{name}:{recipe}")
    configs.check(config)
    assert (config.name, config.recipe, config.model.name) == (name, recipe, name)


def test_a_name_alone_is_the_recommended_recipe():
    assert configs.load("m1").to_dict() == configs.load("m1:recommended").to_dict()


def test_the_papers_recipe_is_literal():
    """Huynh et al.: Adam at 1e-6, 100 epochs, binary cross-entropy; nothing is added."""
    config = configs.load("m1:paper")
    assert config.epochs == 100
    assert config.batch_size == 32
    assert config.optimizer.to_dict() == {
        "name": "adam", "learning_rate": 1e-6, "schedule": "constant", "warmup_epochs": 0.0,
    }  # fmt: skip
    assert config.loss.to_dict() == {"class_weights": "none", "label_smoothing": 0.0}
    assert set(config.augment.values()) == {0.0}
    assert config.model.batch_norm_momentum == 0.99
    assert config.model.image_size == 150


def test_the_notebooks_recipe_is_literal():
    """The Keras notebook's: RMSprop at 1e-3 that falls on a plateau, 12 epochs of 32, geometric augmentation alone."""
    config = configs.load("m1:notebook")
    assert (config.epochs, config.batch_size, config.model.image_size) == (12, 32, 150)
    assert config.optimizer.to_dict() == {
        "name": "rmsprop", "learning_rate": 1e-3, "schedule": "plateau", "warmup_epochs": 0.0,
    }  # fmt: skip
    assert config.loss.to_dict() == {"class_weights": "none", "label_smoothing": 0.0}
    used = {kind: strength for kind, strength in config.augment.items() if strength}
    assert used == {"rotation": 30.0, "stretch": 0.2, "shift": 0.1, "flip": 0.5}


def test_the_recipe_for_28_pixels_differs_from_the_recommended_in_what_the_size_asks_for():
    small, usual = configs.load("m2:28px"), configs.load("m2")
    assert small.model.image_size == 28
    assert {told.partition("=")[0] for told in configs.differences(small, usual)} == {
        "augment.noise", "augment.sharpness", "batch_size", "epochs", "model.image_size", "recipe",
    }  # fmt: skip


def test_a_users_own_file_builds_on_a_shipped_one(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from pneumojax.config import load\n"
        "def get_config(recipe='short'):\n"
        "    config = load('m2:paper')\n"
        "    config.epochs = {'short': 3}[recipe]\n"
        "    return config\n"
    )
    config = configs.load(str(path))
    assert (config.name, config.model.name, config.epochs) == ("mine", "m2", 3)


@pytest.mark.parametrize(
    "program",
    [
        "def get_config(:",
        "x = 1",
        "def get_config(): return {'epochs': 3}",
        "def get_config(): return None",
        "from pneumojax.config import load\ndef get_config():\n  c = load('m1')\n  c.epochs = 'many'\n  return c",
    ],
)
def test_a_users_file_that_gives_no_config_is_told_in_one_line(tmp_path, program):
    path = tmp_path / "mine.py"
    path.write_text(program)
    with pytest.raises(UserError) as error:
        configs.load(str(path))
    assert "mine.py gives no config" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("optimizer.learning_rate", "1e-4", 1e-4),
        ("optimizer.learning_rate", "1", 1.0),
        ("epochs", "3", 3),
        ("data.source", "123", "123"),
        ("loss.class_weights", "none", "none"),
    ],
)
def test_overrides_take_the_fields_type(field, text, value):
    config = configs.load("m1")
    configs.override(config, field, text)
    configs.check(config)
    for part in field.split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("m4", "no config 'm4': there is m1, m2, m3"),
        ("resnet", "no config 'resnet': there is m1, m2, m3"),
        ("m1:papr", "no recipe 'papr': did you mean paper?"),
        ("m1:best", "no recipe 'best': there is 28px, notebook, paper, recommended"),
        ("nowhere/mine.py", "no config file nowhere/mine.py"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(spec, says):
    with pytest.raises(UserError) as error:
        configs.load(spec)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("epoch", "3", "no config field 'epoch': did you mean epochs?"),
        ("optimizer.learningrate", "3", "did you mean optimizer.learning_rate"),
        ("epochs", "2.5", "config field 'epochs' takes a whole number, not '2.5'"),
        ("epochs", "True", "takes a whole number"),
        ("optimizer.learning_rate", "fast", "takes a number, not 'fast'"),
        ("optimizer", "sgd", "'optimizer' is a group"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(field, text, says):
    with pytest.raises(UserError) as error:
        configs.override(configs.load("m1"), field, text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("epochs", "0"),
        ("batch_size", "-1"),
        ("seed", "-1"),
        ("model.name", "m7"),
        ("model.image_size", "4"),
        ("model.dtype", "float16"),
        ("model.batch_norm_momentum", "1.0"),
        ("optimizer.learning_rate", "0.0"),
        ("optimizer.learning_rate", "1e999"),
        ("optimizer.name", "sgd"),
        ("optimizer.schedule", "step"),
        ("optimizer.warmup_epochs", "1000.0"),
        ("loss.class_weights", "heavy"),
        ("loss.label_smoothing", "1.0"),
        ("augment.rotation", "181.0"),
        ("augment.zoom", "1.0"),
        ("augment.stretch", "-0.1"),
        ("augment.flip", "1.0"),
        ("augment.gamma", "1.0"),
        ("augment.sharpness", "1.0"),
        ("augment.noise", "-0.01"),
        ("data.resident", "True"),
        ("data.split_seed", "-1"),
        ("data.folds", "1"),
        ("data.folds", "-5"),
        ("data.fold", "1"),
        ("data.leave_out", "(virus"),
        ("data.val_fraction", "0.0"),
        ("data.test_fraction", "0.95"),
        ("checkpoint.steps", "-1"),
        ("checkpoint.minutes", "-0.5"),
        ("evaluation.batch_size", "0"),
        ("explanation.square", "0.0"),
        ("explanation.square_step", "1.5"),
        ("explanation.baseline", "grey"),
        ("explanation.steps", "-1"),
        ("explanation.noise", "1.5"),
        ("prediction.output", "rows.txt"),
        ("prediction.shard", "2/2"),
        ("evaluation.prevalence", "1.0"),
        ("evaluation.prevalence", "-0.1"),
        ("experiment.recipes", ""),
        ("experiment.recipes", "paper,"),
        ("experiment.seeds", "0;1"),
        ("experiment.seeds", "-1"),
        ("experiment.folds", "0;1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, text):
    config = configs.load("m1")
    configs.override(config, field, text)
    with pytest.raises(UserError, match=f"config field '{field}' must be"):
        configs.check(config)


def test_a_fold_is_one_of_the_folds():
    config = configs.load("m1")
    config.data.folds, config.data.fold = 5, 4
    configs.check(config)
    config.data.fold = 5
    with pytest.raises(UserError, match="'data.fold' must be at least 0 and below data.folds, not 5"):
        configs.check(config)


def test_splits_hang_on_their_own_seed():
    """Runs of several seeds are to be compared, so the seed of training must not move an image between splits."""
    config = configs.load("m1")
    before = configs.carving(config)
    config.seed = 3
    assert configs.carving(config) == before
    given = {"val_fraction": 0.3, "test_fraction": 0.2, "folds": 5, "fold": 2, "leave_out": "virus"}
    config.data.update(given | {"split_seed": 7})
    assert configs.carving(config)._asdict() == given | {"seed": 7}


def test_overrides_are_parted_from_the_other_flags():
    argv = ["main", "--config=m1", "--config.data.source=a=b", "--config.epochs", "3", "-config.seed=1", "--mode=train"]
    plain, overrides = configs.split_overrides(argv)
    assert plain == ["main", "--config=m1", "--mode=train"]
    assert overrides == ["data.source=a=b", "epochs=3", "seed=1"]


def test_a_file_keeps_a_config(tmp_path):
    path = epath.Path(tmp_path) / "config.json"
    configs.write(configs.load("m3"), path)
    assert configs.read(path).to_dict() == configs.load("m3").to_dict()


def test_a_broken_file_is_told(tmp_path):
    path = epath.Path(tmp_path) / "config.json"
    path.write_text('{"epochs": ')
    with pytest.raises(UserError, match="is not a config"):
        configs.read(path)
    path.write_text('{"epochs": 3}')
    with pytest.raises(UserError, match="lacks augment.brightness: that run is of an earlier version"):
        configs.read(path)


@pytest.mark.parametrize(
    "group, field",
    [("benchmark", "peers"), ("experiment", "seeds"), ("augment", "rotation"), ("data", "folds"), ("model", "name")],
)
def test_a_config_without_a_field_is_told(group, field):
    """As a user's own file may be, in whichever way the field is looked up."""
    config = configs.load("m1").unlock()
    del config[group][field]
    with pytest.raises(UserError, match="lacks a field"):
        configs.check(config)


def test_only_what_results_depend_on_makes_two_runs_differ():
    ours, theirs = configs.load("m1"), configs.load("m1")
    configs.override(theirs, "evaluation.batch_size", "8")
    configs.override(theirs, "evaluation.prevalence", "0.05")
    configs.override(theirs, "evaluation.shifts", "true")
    configs.override(theirs, "experiment.recipes", "paper")
    configs.override(theirs, "data.cache_dir", "elsewhere")
    assert configs.differences(ours, theirs) == []
    configs.override(theirs, "seed", "1")
    configs.override(theirs, "data.split_seed", "1")
    assert configs.differences(ours, theirs) == ["data.split_seed=0, not 1", "seed=0, not 1"]
