"""Configs by name, recipe and path; overrides; the messages for what is refused."""

import json

import pytest
from etils import epath

from pneumojax.config_rules import RULES
from pneumojax.data import data_settings
from pneumojax.runtime import config as configs
from pneumojax.runtime import run_identity
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import run_config


@pytest.mark.parametrize("name", ["m1", "m2", "m3"])
@pytest.mark.parametrize("recipe", ["recommended", "28px", "notebook", "paper"])
def test_every_shipped_config_is_valid(name, recipe):
    config = configs.load(f"{name}:{recipe}")
    configs.check(config, run_config.RULES)
    assert (config.name, config.recipe, config.model.name) == (name, recipe, name)


def test_a_name_alone_is_the_recommended_recipe():
    assert configs.load("m1").to_dict() == configs.load("m1:recommended").to_dict()


def test_the_paper_recipe_is_literal():
    """Huynh et al.: Adam at 1e-6, 100 epochs, binary cross-entropy, and nothing else."""
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


def test_the_notebook_recipe_is_literal():
    """The Keras notebook: RMSprop at 1e-3, lowered on a plateau, 12 epochs, batches of 32, geometric augmentation."""
    config = configs.load("m1:notebook")
    assert (config.epochs, config.batch_size, config.model.image_size) == (12, 32, 150)
    assert config.optimizer.to_dict() == {
        "name": "rmsprop", "learning_rate": 1e-3, "schedule": "plateau", "warmup_epochs": 0.0,
    }  # fmt: skip
    assert config.loss.to_dict() == {"class_weights": "none", "label_smoothing": 0.0}
    used = {kind: strength for kind, strength in config.augment.items() if strength}
    assert used == {"rotation": 30.0, "stretch": 0.2, "shift": 0.1, "flip": 0.5}


def test_the_recipe_for_28_pixels_differs_only_where_the_size_matters():
    small, recommended = configs.load("m2:28px"), configs.load("m2")
    assert small.model.image_size == 28
    assert {line.partition("=")[0] for line in configs.differences(small, recommended)} == {
        "augment.noise", "augment.shading", "augment.sharpness", "batch_size", "epochs",
        "model.equalize", "model.image_size", "recipe",
    }  # fmt: skip


def test_a_user_file_can_build_on_a_shipped_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from pneumojax import load_config\n"
        "def get_config(recipe='short'):\n"
        "    config = load_config('m2:paper')\n"
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
        "from pneumojax import load_config as l\ndef get_config():\n  c = l('m1')\n  c.epochs = 'many'\n  return c",
    ],
)
def test_a_user_file_that_returns_no_config_is_reported_in_one_line(tmp_path, program):
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
def test_an_override_takes_the_type_of_the_field(field, text, value):
    config = configs.override(configs.load("m1"), [f"{field}={text}"])
    configs.check(config, run_config.RULES)
    found = configs.fields(config)[field]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("m4", "no config 'm4': choose from m1, m2, m3"),
        ("resnet", "no config 'resnet': choose from m1, m2, m3"),
        ("m1:papr", "no recipe 'papr': did you mean paper?"),
        ("m1:best", "no recipe 'best': choose from 28px, notebook, paper, recommended"),
        ("nowhere/mine.py", "no config file nowhere/mine.py"),
    ],
)
def test_the_message_for_an_unknown_name_has_the_nearest_ones(spec, message):
    with pytest.raises(UserError) as error:
        configs.load(spec)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("epoch", "3", "no config field 'epoch': did you mean epochs?"),
        ("optimizer.learningrate", "3", "did you mean optimizer.learning_rate"),
        ("epochs", "2.5", "config field 'epochs' takes a whole number, not '2.5'"),
        ("epochs", "True", "takes a whole number"),
        ("optimizer.learning_rate", "fast", "takes a number, not 'fast'"),
        ("optimizer", "sgd", "'optimizer' is a group"),
        ("optimizer.lr", "1", "no config field 'optimizer.lr': did you mean optimizer.learning_rate?"),
        ("rotation", "5", "no config field 'rotation': did you mean augment.rotation?"),
        ("data.corruptions", "true", "did you mean evaluation.corruptions or experiment.corruptions?"),
    ],
)
def test_a_wrong_override_is_reported_in_one_line(field, text, message):
    with pytest.raises(UserError) as error:
        configs.override(configs.load("m1"), [f"{field}={text}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("epochs", "0"),
        ("batch_size", "-1"),
        ("seed", "-1"),
        ("model.name", "m7"),
        ("model.blocks", "32:1"),
        ("model.blocks", "32,,64"),
        ("model.blocks", "0:0.1"),
        ("model.image_size", "4"),
        ("model.dtype", "float16"),
        ("model.fused", "sometimes"),
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
        ("data.patient_pattern", "(virus"),
        ("data.patient_pattern", "a{4294967296}"),
        ("data.columns", "view,site"),
        ("data.patient_pattern", "x" * 1001),
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
def test_a_value_out_of_range_is_refused(field, text):
    config = configs.override(configs.load("m1"), [f"{field}={text}"])
    with pytest.raises(UserError, match=f"config field '{field}' must be"):
        configs.check(config, run_config.RULES)


def test_the_held_out_fold_is_one_of_the_folds():
    config = configs.with_fields(configs.load("m1"), {"data.folds": 5, "data.fold": 4})
    configs.check(config, run_config.RULES)
    config = configs.with_fields(config, {"data.fold": 5})
    with pytest.raises(UserError, match="'data.fold' must be at least 0 and below data.folds, not 5"):
        configs.check(config, run_config.RULES)


def test_splits_depend_on_a_seed_of_their_own():
    """Runs with different seeds are compared, so the seed of training must not move an image to another split."""
    config = configs.load("m1")
    other_seed = configs.with_fields(config, {"seed": 3})
    assert data_settings.carving(other_seed) == data_settings.carving(config)
    settings = {
        "val_fraction": 0.3,
        "test_fraction": 0.2,
        "folds": 5,
        "fold": 2,
        "leave_out": "virus",
        "leave_out_site": "a",
    }
    fields = {f"data.{name}": value for name, value in settings.items()} | {"data.split_seed": 7}
    assert data_settings.carving(configs.with_fields(config, fields))._asdict() == settings | {"seed": 7}


def test_overrides_are_split_from_the_other_flags():
    argv = ["main", "--config=m1", "--config.data.source=a=b", "--config.epochs", "3", "-config.seed=1", "--mode=train"]
    plain, overrides = configs.split_overrides(argv)
    assert plain == ["main", "--config=m1", "--mode=train"]
    assert overrides == ["data.source=a=b", "epochs=3", "seed=1"]


@pytest.mark.parametrize("argv", [["--config.evaluation.corruptions"], ["--config.evaluation.corruptions", "--mode=x"]])
def test_a_boolean_field_needs_no_value(argv):
    others, overrides = configs.split_overrides(argv)
    assert (others, overrides) == (argv[1:], ["evaluation.corruptions"])
    config = configs.load("m1")
    assert config.evaluation.corruptions is False
    assert configs.override(config, overrides).evaluation.corruptions is True


def test_a_boolean_field_may_have_a_value():
    _, overrides = configs.split_overrides(["--config.experiment.corruptions", "false"])
    assert configs.override(configs.load("m1"), overrides).experiment.corruptions is False


def test_any_other_field_needs_a_value():
    _, overrides = configs.split_overrides(["--config.epochs", "--mode=train"])
    with pytest.raises(UserError, match="'epochs' needs a value: write --config.epochs=VALUE"):
        configs.override(configs.load("m1"), overrides)


def test_a_negative_number_is_a_value_not_a_flag():
    assert configs.split_overrides(["--config.seed", "-1"]) == ([], ["seed=-1"])


def test_no_function_changes_the_config_it_is_given(tmp_path):
    config = configs.load("m1")
    before = config.to_dict()
    changed = configs.override(config, ["augment.rotation=5", "seed=1"])
    changed = configs.with_fields(changed, {"data.cache_dir": "elsewhere"})
    configs.check(config, run_config.RULES)
    configs.write(config, epath.Path(tmp_path) / "config.json")
    assert config.to_dict() == before
    assert (changed.augment.rotation, changed.seed, changed.data.cache_dir) == (5.0, 1, "elsewhere")


def test_a_field_that_does_not_exist_cannot_be_set():
    """A typo must not become a new field that nothing reads."""
    with pytest.raises((AttributeError, KeyError)):
        configs.with_fields(configs.load("m1"), {"optimizer.lr": 1.0})


def test_each_config_is_loaded_afresh():
    """What one caller does to a config must not reach the next."""
    config = configs.load("m1")
    config.epochs = 99
    assert configs.load("m1").epochs != 99


def test_a_written_config_is_read_back_equal(tmp_path):
    path = epath.Path(tmp_path) / "config.json"
    configs.write(configs.load("m3"), path)
    assert configs.read(path).to_dict() == configs.load("m3").to_dict()


def test_a_damaged_or_older_config_file_is_reported(tmp_path):
    path = epath.Path(tmp_path) / "config.json"
    path.write_text('{"epochs": ')
    with pytest.raises(UserError, match="is no config"):
        configs.read(path)
    path.write_text('{"epochs": 3}')
    with pytest.raises(UserError, match="lacks augment.brightness, on which results depend: bring it back"):
        configs.read(path)


def saved_tree(path):
    """Write the config of m3, and return what the file holds."""
    configs.write(configs.load("m3"), path)
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", '"m1"', "\udc00", "[" * 5000, '{"a":' * 900 + "1" + "}" * 900, '{"seed": NaN}', "{"]
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path, text):
    path = epath.Path(tmp_path) / "config.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match=r"config.json (is no config|lacks)"):
        configs.read(path)


@pytest.mark.parametrize("value", [None, "3", [3], {"a": 1}, True, 1.5, 1e999, "\ud800"])
def test_a_field_of_another_type_is_refused(tmp_path, value):
    path = epath.Path(tmp_path) / "config.json"
    tree = saved_tree(path)
    tree["model"]["image_size"] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match="config.json"):
        configs.read(path)


def test_a_config_of_another_version_is_read_as_far_as_results_depend_on_it(tmp_path):
    """An update must not disable trained models."""
    path = epath.Path(tmp_path) / "config.json"
    tree = saved_tree(path)
    del tree["benchmark"]["seconds"], tree["explanation"], tree["evaluation"]["corruptions"]
    tree["evaluation"] |= {"shifts": True, "of_tomorrow": [1]}
    tree["notes"] = {"a.b": 1}
    path.write_text(json.dumps(tree))
    config = configs.read(path)
    assert config.evaluation.corruptions is True, "its name in 0.1 was shifts"
    assert config.benchmark == configs.load("m3").benchmark
    assert configs.differences(configs.load("m3"), config) == []


def test_what_says_where_to_write_is_neither_stored_nor_read(tmp_path):
    """A workdir may be a stranger's."""
    path = epath.Path(tmp_path) / "config.json"
    defaults = {field: configs.fields(configs.load("m1"))[field] for field in configs.LOCAL}
    values = dict.fromkeys(configs.LOCAL, "elsewhere.csv") | {"pacs.listen": 4711, "serve.port": 4711}
    assert set(values) == {
        "data.beam_options", "data.beam_runner", "data.cache_dir", "export.about", "export.output",
        "pacs.address", "pacs.ae_title", "pacs.ca_bundle", "pacs.client_certificate", "pacs.credentials", "pacs.dates",
        "pacs.dicomweb", "pacs.hosts", "pacs.listen", "pacs.peers", "pacs.queue", "pacs.send", "pacs.study",
        "pacs.worklist", "prediction.output", "serve.host", "serve.port", "site",
    }  # fmt: skip
    configs.write(configs.with_fields(configs.load("m1"), values), path)
    assert "elsewhere" not in path.read_text() and "4711" not in path.read_text()
    tree = json.loads(path.read_text())
    for field, value in values.items():
        *group, name = field.split(".")
        (tree[group[0]] if group else tree)[name] = value
    path.write_text(json.dumps(tree))
    read = configs.fields(configs.read(path))
    assert {field: read[field] for field in values} == defaults


def test_the_identity_of_a_run_depends_on_settings_splits_and_images_and_not_on_places(tmp_path):
    config = configs.load("m1")
    elsewhere = configs.with_fields(config, {"data.source": "moved", "data.cache_dir": "c", "benchmark.rounds": 3})
    first = configs.new_identity(config, "a,0,train", "pixels")
    assert configs.new_identity(elsewhere, "a,0,train", "pixels") == first
    others = [
        configs.new_identity(configs.with_fields(config, {"seed": 1}), "a,0,train", "pixels"),
        configs.new_identity(config, "a,1,train", "pixels"),
        configs.new_identity(config, "a,0,train", "other pixels"),
    ]
    assert len({first.id, *(other.id for other in others)}) == 4
    configs.write(config, epath.Path(tmp_path) / "config.json", first)
    assert run_identity.of_workdir(epath.Path(tmp_path)) == first
    assert configs.read(epath.Path(tmp_path) / "config.json").to_dict() == config.to_dict()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": 3}', '{"run": {"id": "x"}}', "[" * 9999])
def test_a_run_without_identity_has_an_empty_one(tmp_path, content):
    assert run_identity.of_workdir(epath.Path(tmp_path)) == run_identity.Identity("", "", "")
    (tmp_path / "config.json").write_text(content)
    assert run_identity.of_workdir(epath.Path(tmp_path)) == run_identity.Identity("", "", "")


NUMBERS = [field for field, value in configs.fields(configs.load("m1")).items() if type(value) in (int, float)]


@pytest.mark.parametrize("field", NUMBERS)
def test_every_number_has_bounds(field):
    """A huge one would never end, or take all memory; a NaN is within no bounds."""
    config = configs.load("m1")
    kind = type(configs.fields(config)[field])
    for value in (10**12, -(10**12), *((float("nan"), float("inf")) if kind is float else ())):
        changed = configs.with_fields(config, {field: kind(value)})
        with pytest.raises(UserError, match=f"'{field}' must be"):
            configs.check(changed, RULES)


@pytest.mark.parametrize(
    "group, field",
    [("benchmark", "peers"), ("experiment", "seeds"), ("augment", "rotation"), ("data", "folds"), ("model", "name")],
)
def test_a_config_that_lacks_a_field_is_reported(group, field):
    """A user's own file may lack one that any part of the program reads."""
    config = configs.load("m1").unlock()
    del config[group][field]
    with pytest.raises(UserError, match=f"the config lacks a field: add {group}.{field}"):
        configs.check(config, run_config.RULES)


def test_only_fields_that_results_depend_on_make_two_runs_differ():
    config = configs.load("m1")
    without_effect = configs.override(
        config,
        [
            "evaluation.batch_size=8",
            "evaluation.prevalence=0.05",
            "evaluation.corruptions=true",
            "experiment.recipes=paper",
            "data.cache_dir=elsewhere",
        ],
    )
    assert configs.differences(config, without_effect) == []
    with_effect = configs.override(without_effect, ["seed=1", "data.split_seed=1"])
    assert configs.differences(config, with_effect) == ["data.split_seed=0, not 1", "seed=0, not 1"]
