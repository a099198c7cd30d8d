"""The runs that a config makes an experiment train: their names and settings."""

import json

import pytest
from etils import epath

from pneumojax.evaluation.experiment_runs import Run, recorded, rules, runs
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.workdir import EXPERIMENT, is_experiment
from pneumojax.workflows.experiment import config_of


def config_with(name="m2", **fields):
    config = configs.load(name)
    for field, text in fields.items():
        config = configs.override(config, [f"{field.replace('__', '.')}={text}"])
    configs.check(config, [rules])
    return config


def test_every_model_is_trained_with_every_recipe_on_each_fold_and_seed():
    """Seeds and folds vary slowest, so that an experiment that was stopped has complete folds to compare."""
    lists = {"models": "m1,m3", "recipes": "paper,notebook+epochs=3", "folds": "2,0", "seeds": "0,7"}
    config = config_with(data__folds="5", **{f"experiment__{field}": text for field, text in lists.items()})
    assert runs(config) == [
        Run(model, recipe, fold, seed)
        for seed in (0, 7)
        for fold in (2, 0)
        for recipe in ("paper", "notebook+epochs=3")
        for model in ("m1", "m3")
    ]


def test_a_repeated_run_is_trained_once():
    """Two equal runs would have a spread of zero."""
    config = config_with(data__folds="3", experiment__recipes="paper,paper", experiment__folds="1,1")
    assert runs(config) == [Run("m2", "paper", 1, 0)]


def test_without_a_list_of_folds_every_fold_is_held_out():
    config = config_with(data__folds="2", experiment__recipes="paper")
    assert [run.fold for run in runs(config)] == [0, 1]


def test_without_folds_or_models_the_configs_model_is_trained_once():
    assert runs(config_with(experiment__recipes="paper")) == [Run("m2", "paper", None, 0)]


def test_every_site_is_left_out_in_turn():
    """A model must be judged at a hospital that it has never seen."""
    several = {"data__source": "near=a,far=b", "experiment__recipes": "paper", "experiment__seeds": "0,1"}
    config = config_with(**several, experiment__leave_one_site_out="true")
    assert runs(config) == [Run("m2", "paper", None, seed, site) for seed in (0, 1) for site in ("near", "far")]
    assert runs(config_with(**several)) == [Run("m2", "paper", None, seed) for seed in (0, 1)]
    own = config_of(runs(config)[1], "near=a,far=b", ["experiment.leave_one_site_out=true"])
    assert (own.data.leave_out_site, own.loss.class_weights) == ("far", "none")


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"data__source": "near=a"},
        {"data__source": "near=a,far=b", "data__folds": "3"},
        {"data__source": "near=a,far=b", "data__leave_out": "x"},
        {"data__source": "near=a,far=b", "data__leave_out_site": "far"},
    ],
)
def test_a_site_can_be_left_out_of_several_alone(others):
    with pytest.raises(UserError, match="experiment.leave_one_site_out' must be false, or true where"):
        config_with(experiment__leave_one_site_out="true", **others)


def test_runs_are_listed_and_read_again(tmp_path):
    """An experiment without sites lists its runs as 0.1 did."""
    every = [Run("m1", "paper", 2, 0), Run("m1", "paper", None, 0, "far")]
    assert every[0].fields == {"config": "m1", "recipe": "paper", "fold": 2, "seed": 0}
    (tmp_path / EXPERIMENT).write_text(json.dumps({"runs": [run.fields for run in every]}))
    assert recorded(epath.Path(tmp_path)) == every
    (tmp_path / EXPERIMENT).write_text(json.dumps({"runs": [every[1].fields | {"site": 3}]}))
    with pytest.raises(UserError, match="does not list runs"):
        recorded(epath.Path(tmp_path))


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (Run("m1", "recommended", None, 0), "m1-recommended-seed0"),
        (Run("m1", "recommended+augment.noise=0", 2, 17), "m1-recommended+augment.noise=0-fold2-seed17"),
        (Run("my/own.py", "paper", 0, 1), "own-paper-fold0-seed1"),
        (Run("m1", "paper", None, 0, "far.away-2"), "m1-paper-without-far.away-2-seed0"),
        (Run("m1", "paper", None, 0, "../x"), "m1-paper-without-.._x-seed0"),
        (Run("m1", "paper+data.leave_out=a/b c", None, 0), "m1-paper+data.leave_out=a_b_c-seed0"),
    ],
)
def test_the_name_of_a_runs_folder_describes_the_run(run, name):
    """It has no separators that lead out of the experiment's folder."""
    assert run.name == name


def test_an_experiment_is_recognised_by_its_file(tmp_path):
    assert not is_experiment(None)
    assert not is_experiment(tmp_path)
    (tmp_path / EXPERIMENT).write_text("{}")
    assert is_experiment(tmp_path)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("recipes", "", "a comma-separated list of recipes, not ''"),
        ("recipes", "paper,,notebook", "a comma-separated list of recipes"),
        ("folds", "0,5", "a comma-separated list of numbers below 5, not '0,5'"),
        ("folds", "all", "a comma-separated list of numbers below 5"),
        ("seeds", "0-4", "a comma-separated list of numbers below 2,147,483,648, not '0-4'"),
        ("seeds", "", "a comma-separated list of numbers"),
        ("seeds", "2147483648", "a comma-separated list of numbers below 2,147,483,648"),
    ],
)
def test_a_wrong_field_is_reported_on_one_line(field, text, message):
    with pytest.raises(UserError, match=f"config field 'experiment.{field}' must be") as error:
        config_with(data__folds="5", **{f"experiment__{field}": text})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_folds_that_no_split_has_are_refused():
    """Otherwise the runs would silently have none."""
    with pytest.raises(UserError, match=r"'experiment.folds' must be empty where data.folds is 0, not '0,1'"):
        config_with(experiment__folds="0,1")


def test_runs_that_would_share_a_folder_are_refused():
    recipes = "paper+data.leave_out=a/b,paper+data.leave_out=a_b"
    with pytest.raises(UserError, match=r"two different runs are called m2-paper\+data.leave_out=a_b-seed0: "):
        runs(config_with(experiment__recipes=recipes))


def test_recipe_overrides_win_over_the_command_line_and_those_over_the_config():
    """The command line's overrides apply to every run, a recipe's only to its own runs."""
    overrides = ["model.image_size=32", "epochs=5", "data.folds=4", "experiment.corruptions=false"]
    run = Run("m3", "notebook+epochs=2+augment.noise=0.25", 3, 9)
    config = config_of(run, "/data/chests", overrides)
    assert (config.name, config.recipe, config.model.name) == ("m3", "notebook", "m3")
    assert (config.optimizer.name, config.model.image_size) == ("rmsprop", 32)
    assert (config.epochs, config.augment.noise) == (2, 0.25)
    assert (config.seed, config.data.source, config.data.folds, config.data.fold) == (9, "/data/chests", 4, 3)
    assert not config.evaluation.corruptions
    plain = config_of(Run("m3", "notebook", None, 0), "/data/chests", [])
    assert (plain.epochs, plain.augment.noise, plain.seed, plain.data.fold) == (12, 0.0, 0, 0)
    assert plain.evaluation.corruptions


@pytest.mark.parametrize("field", ["seed", "data.fold", "evaluation.corruptions"])
def test_what_each_run_has_of_its_own_is_not_set_for_all(field):
    """It would be overwritten silently."""
    for overrides, recipe in (([f"{field}=1"], "paper"), ([], f"paper+{field}=1")):
        with pytest.raises(UserError, match=f"an experiment sets {field} in each run: give --config.experiment."):
            config_of(Run("m3", recipe, None, 0), "/data/chests", overrides)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("best", "no recipe 'best'"),
        ("paper+augment.noise", "in recipe 'paper+augment.noise', 'augment.noise' is no field=value"),
        ("paper+augment.nose=0", "no config field 'augment.nose': did you mean augment.noise"),
        ("paper+epochs=0", "config field 'epochs' must be from 1"),
        ("paper+epochs=many", "config field 'epochs' takes a whole number, not 'many'"),
    ],
)
def test_a_wrong_recipe_is_reported_on_one_line(recipe, message):
    with pytest.raises(UserError) as error:
        config_of(Run("m1", recipe, None, 0), "/data", [])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
