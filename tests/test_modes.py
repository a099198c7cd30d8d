"""The table of modes: which function does a command's work, with which config and workdir, and what is refused."""

import json

import pytest
from etils import epath
from support import SIZE, one_epoch

from pneumojax import modes
from pneumojax.benchmark import plan, run_benchmark
from pneumojax.evaluation.experiment_runs import Run
from pneumojax.inference import bundle
from pneumojax.modes import Command
from pneumojax.runtime import config as configs
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import ExitStatus, UserError
from pneumojax.serving import run_server
from pneumojax.workflows import audit, evaluate, experiment, explain, predict, prepare, train


@pytest.fixture
def replace(monkeypatch):
    """A function that replaces the one that does a mode's work, and returns the arguments of its calls."""

    def replace(module, name, result=None):
        calls = []

        def record(*arguments, **options):
            calls.append((*arguments, *options.values()))
            return result

        monkeypatch.setattr(module, name, record)
        return calls

    return replace


@pytest.fixture
def workdir(tmp_path):
    """A workdir that holds the config of a run on phantoms."""
    workdir = epath.Path(tmp_path / "work")
    configs.write(one_epoch("phantom", tmp_path), workdir / workdirs.CONFIG)
    return workdir


def test_every_mode_says_what_it_does_and_with_which_flags():
    assert list(modes.MODES) == [
        "train", "evaluate", "predict", "explain", "calibrate", "export", "pacs", "serve", "experiment", "audit",
        "prepare", "benchmark",
    ]  # fmt: skip
    assert all(mode.summary and "--" in mode.usage for mode in modes.MODES.values())


def test_train_gets_overrides_data_and_a_default_workdir(replace):
    calls = replace(train, "train_and_evaluate")
    command = Command(spec="m2:paper", data="phantom", overrides=["epochs=3", "augment.rotation=5"])
    assert modes.run("train", command) == ExitStatus.DONE
    [(config, workdir)] = calls
    assert workdir == epath.Path("runs/m2-paper-phantom")
    assert (config.model.name, config.recipe, config.data.source) == ("m2", "paper", "phantom")
    assert (config.epochs, config.augment.rotation) == (3, 5.0)


def test_serve_takes_a_model_and_its_settings(replace):
    calls = replace(run_server, "serve")
    modes.run("serve", Command(model="m1", workdir=epath.Path("here"), overrides=["serve.port=0", "serve.queue=9"]))
    [(config, folder, workdir)] = calls
    assert (config.serve.port, config.serve.queue) == (0, 9)
    assert (folder, workdir) == (bundle.shipped()["m1"], epath.Path("here")), "sites/ of the workdir has the site files"
    for wrong in ("serve.port=70000", "serve.host=example.org", "serve.films=0"):
        with pytest.raises(UserError, match=wrong.partition("=")[0]):
            modes.run("serve", Command(model="m1", overrides=[wrong]))
    with pytest.raises(UserError, match="films are sent to it"):
        modes.run("serve", Command(model="m1", data="films"))


def test_without_config_the_run_in_the_workdir_continues_with_its_own(replace, workdir):
    calls = replace(train, "train_and_evaluate")
    modes.run("train", Command(workdir=workdir, overrides=["evaluation.batch_size=7"]))
    [(config, used)] = calls
    assert used == workdir
    assert (config.model.image_size, config.evaluation.batch_size) == (SIZE, 7)


def test_evaluate_leaves_corruptions_out_unless_they_are_asked_for(replace, workdir):
    """A run that was trained with them need not be evaluated with them on other images."""
    config = configs.read(workdir / workdirs.CONFIG)
    configs.write(configs.with_fields(config, {"evaluation.corruptions": True}), workdir / workdirs.CONFIG)
    calls = replace(evaluate, "evaluate_run")
    for overrides in ((), ("evaluation.corruptions",)):
        assert modes.run("evaluate", Command(workdir=workdir, data="films", overrides=overrides)) == ExitStatus.DONE
    assert [config.evaluation.corruptions for config, _, _ in calls] == [False, True]
    assert [(used, data) for _, used, data in calls] == [(workdir, "films")] * 2


def test_evaluate_takes_its_source_from_data_alone(workdir):
    with pytest.raises(UserError, match="--data=SOURCE names what is evaluated"):
        modes.run("evaluate", Command(workdir=workdir, overrides=["data.source=films"]))


def test_evaluate_recognises_the_workdir_of_an_experiment(replace, tmp_path):
    workdir, run = epath.Path(tmp_path), Run("m1", "paper", None, 0)
    (workdir / workdirs.EXPERIMENT).write_text(json.dumps({"runs": [run.fields]}))
    configs.write(one_epoch("phantom", tmp_path), workdir / run.name / workdirs.CONFIG)
    calls = replace(experiment, "evaluate_experiment")
    assert modes.run("evaluate", Command(workdir=workdir, data="films", overrides=["seed=1"])) == ExitStatus.DONE
    assert calls == [(["seed=1"], workdir, "films")]
    with pytest.raises(UserError, match="--mode=evaluate of an experiment is for one process"):
        modes.run("evaluate", Command(workdir=workdir, data="films", job={}))


def test_an_experiment_without_runs_is_refused(tmp_path):
    (tmp_path / workdirs.EXPERIMENT).write_text('{"runs": []}')
    with pytest.raises(UserError, match=r"experiment.json lists no run: choose another --workdir"):
        modes.run("evaluate", Command(workdir=epath.Path(tmp_path)))


def test_another_model_is_not_evaluated_in_the_workdir_of_a_run(replace, workdir):
    """Its files would take the places of the run's own."""
    calls = replace(evaluate, "evaluate_model")
    with pytest.raises(UserError, match="has the evaluations of its own run: choose another --workdir for --model"):
        modes.run("evaluate", Command(workdir=workdir, data="films", model="m1"))
    assert not calls


def test_predict_passes_its_exit_status_on(replace, workdir):
    """Images that cannot be read are no error of the command."""
    calls = replace(predict, "predict_images", ExitStatus.FINDINGS)
    assert modes.run("predict", Command(workdir=workdir, data="films")) == ExitStatus.FINDINGS
    [(config, used, data, model)] = calls
    assert (used, data, model) == (workdir, "films", None)
    assert config.data.source == "phantom", "the run's own, not what is predicted"


def test_explain_keeps_the_source_of_the_run(replace, workdir):
    calls = replace(explain, "explain_images")
    assert modes.run("explain", Command(workdir=workdir)) == ExitStatus.DONE
    [(config, used, data, model)] = calls
    assert (config.data.source, used, data, model) == ("phantom", workdir, None, None)


@pytest.mark.parametrize(("spec", "models"), [(None, "m1,m2,m3"), ("m2", "m2"), ("m3:paper", "m3")])
def test_an_experiment_is_of_the_named_model_or_of_all(replace, spec, models):
    calls = replace(experiment, "run_experiment")
    command = Command(spec=spec, data="phantom", overrides=["experiment.seeds=0,1"])
    assert modes.run("experiment", command) == ExitStatus.DONE
    [(config, overrides, workdir)] = calls
    assert (config.experiment.models, config.experiment.seeds) == (models, "0,1")
    assert overrides == ["experiment.seeds=0,1"]
    assert workdir == epath.Path("runs/experiment-phantom")


def test_audit_passes_its_exit_status_on(replace):
    calls = replace(audit, "audit_source", ExitStatus.FINDINGS)
    assert modes.run("audit", Command(data="films/set")) == ExitStatus.FINDINGS
    [(config, workdir)] = calls
    assert (config.data.source, workdir) == ("films/set", epath.Path("runs/audit-set"))


def test_audit_needs_data():
    with pytest.raises(UserError, match="give --data"):
        modes.run("audit", Command(spec="m1"))


def test_prepare_uses_the_image_size_of_the_run_in_the_workdir(replace, workdir):
    calls = replace(prepare, "prepare_source")
    assert modes.run("prepare", Command(data="films")) == ExitStatus.DONE
    assert modes.run("prepare", Command(data="films", workdir=workdir)) == ExitStatus.DONE
    assert [config.model.image_size for (config,) in calls] == [configs.load("m1").model.image_size, SIZE]


@pytest.mark.parametrize(
    ("spec", "models", "name"), [(None, ("m1", "m2", "m3"), "benchmark-m1-m2-m3"), ("m2", ("m2",), "benchmark-m2")]
)
def test_a_benchmark_is_of_the_named_model_or_of_all(replace, spec, models, name):
    calls = replace(run_benchmark, "run_benchmark")
    assert modes.run("benchmark", Command(spec=spec)) == ExitStatus.DONE
    [(config, workdir)] = calls
    assert plan.plan(config).models == models
    assert workdir == epath.Path("runs") / name


@pytest.mark.parametrize("mode", list(modes.MODES))
def test_the_config_that_the_others_are_made_of_is_not_one_to_run(mode):
    with pytest.raises(UserError, match="no config 'base': choose from m1, m2, m3"):
        modes.run(mode, Command(spec="base", data="phantom"))


@pytest.mark.parametrize("mode", ["explain", "export", "experiment", "audit", "prepare", "benchmark"])
def test_a_mode_for_one_process_refuses_a_job_of_several(mode):
    with pytest.raises(UserError, match=f"--mode={mode} is for one process"):
        modes.run(mode, Command(spec="m1", data="phantom", job={}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["epochs=0"], "'epochs' must be from 1"), (["benchmark.rounds=0"], "'benchmark.rounds' must be from 1")],
)
def test_the_config_is_checked_by_the_rules_of_every_part(replace, overrides, message):
    calls = replace(train, "train_and_evaluate")
    with pytest.raises(UserError, match=message):
        modes.run("train", Command(spec="m1", overrides=overrides))
    assert calls == []
