"""`--mode=experiment` from the command line: runs, tables, runs added later, ensembles, mistakes."""

import re

import jax
import numpy as np
import pytest
from etils import epath
from scipy.special import expit, logit
from sklearn import metrics as sk
from support import QUICK, draw_folder, in_process, read_json, read_rows, refused

import pneumojax as pneumojax_api
from pneumojax.evaluation import calibration, corruptions
from pneumojax.inference.explainer import explainer
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.workflows import run_config, trained_models

SMALL = (
    "--config=m1", "--config.model.image_size=32", "--config.epochs=1", "--config.batch_size=8",
    "--config.data.cache_dir=cache", QUICK,
)  # fmt: skip
A, B = "paper", "paper+augment.noise=0.03"


def experiment(folder, *arguments):
    """Run the experiment, and return what it prints."""
    done = in_process("--mode=experiment", *SMALL, *arguments, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def scores(path):
    """Return (ids, labels, probabilities) of an evaluation's CSV."""
    table = read_rows(path)
    labels, probabilities = ([float(row[name]) for row in table] for name in ("label", "probability"))
    return [row["id"] for row in table], np.array(labels, int), np.array(probabilities)


def results_of_runs(work):
    """Return the content of every file that training and evaluating the runs wrote."""
    return {path: path.read_bytes() for name in ("metrics.jsonl", "evaluation/*", "corruptions/*") for path in
            work.glob(f"*/{name}")}  # fmt: skip


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """A workdir after three commands: recipe A on folds 0 and 2 of three, then B, then both.

    Beside it, for each command: what it printed, what its runs left, and the tables.
    """
    folder = tmp_path_factory.mktemp("folded")
    draw_folder(folder / "chests", "train", 30, 30)
    folds = ("--config.data.folds=3", "--config.experiment.folds=0,2")
    commands = []
    for recipes in (A, B, f"{A},{B}"):
        printed = experiment(
            folder, "--data=chests", "--workdir=work", *folds, f"--config.experiment.recipes={recipes}"
        )
        tables = (folder / "work/experiment.md").read_text()
        commands.append((printed, results_of_runs(folder / "work"), tables))
    return folder / "work", commands


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """A folder with `work`, an experiment of one recipe with seeds 0 and 1, and `other`, more images."""
    folder = tmp_path_factory.mktemp("seeded")
    draw_folder(folder / "chests", "train", 30, 30)
    draw_folder(folder / "chests", "test", 6, 10, first=500)
    draw_folder(folder / "other", "", 4, 5, first=700)
    settings = (
        f"--config.experiment.recipes={A}",
        "--config.experiment.seeds=0,1",
        "--config.experiment.corruptions=false",
    )
    experiment(folder, "--data=chests", "--workdir=work", *settings)
    return folder


def test_every_run_has_a_folder_with_its_own_settings(folded):
    work, _ = folded
    folders = {path.name: path for path in work.iterdir() if path.is_dir() and path.name != "report"}
    assert set(folders) == {f"m1-{recipe}-fold{fold}-seed0" for recipe in (A, B) for fold in (0, 2)}
    for name, path in folders.items():
        config = read_json(path / "config.json")
        assert config["augment"]["noise"] == (0.03 if B in name else 0.0)
        assert (config["data"]["folds"], config["data"]["fold"]) == (3, 0 if "fold0" in name else 2)
        assert (path / "report/index.html").exists()
        assert {file.stem for file in path.glob("evaluation/*.json")} == {"train", "val", "held_out"}
        assert set(read_json(path / "corruptions/held_out.json")) == {"clean", *corruptions.CORRUPTIONS}
    assert read_json(work / "experiment.json")["runs"] == [
        {"config": "m1", "recipe": recipe, "fold": fold, "seed": 0} for recipe in (A, B) for fold in (0, 2)
    ]


def test_recipes_are_compared_on_the_same_held_out_images(folded):
    work, _ = folded
    held_out = {}
    for path in work.glob("*/splits.csv"):
        splits = {}
        for row in read_rows(path):
            splits.setdefault(row["split"], set()).add(row["id"])
        assert set(splits) == {"train", "val", "held_out"}
        held_out.setdefault(path.parent.name.partition("-fold")[2][0], []).append(splits["held_out"])
    assert all(of_a == of_b for of_a, of_b in held_out.values())
    assert not held_out["0"][0] & held_out["2"][0]


def test_corruptions_change_the_loss_and_clean_is_the_evaluation_itself(folded):
    work, _ = folded
    for path in work.glob("*/corruptions/held_out.json"):
        summaries, clean = read_json(path), read_json(path.parents[1] / "evaluation/held_out.json")
        assert summaries["clean"] == {key: clean[key] for key in summaries["clean"]}
        assert len({summary["bce"] for summary in summaries.values()}) == len(summaries)
        assert {summary["threshold"] for summary in summaries.values()} == {clean["threshold"]}


def test_the_tables_agree_with_the_evaluations_of_the_runs(folded):
    work, commands = folded
    printed, _, section = commands[-1]
    assert section in printed
    for recipe in (A, B):
        evaluations = [read_json(work / f"m1-{recipe}-fold{fold}-seed0/evaluation/held_out.json") for fold in (0, 2)]
        shown = [
            f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
            for name in ("auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
            for values in [[evaluation[name] for evaluation in evaluations]]
        ]
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
        assert [f"M1 {recipe}", "2", *shown] in lines
    for word in ("Fig. 8", "held_out", "Calibration", "Robustness", "Paired"):
        assert word in section
    page = (work / "report/index.html").read_text()
    assert "<svg" in page
    tables = re.findall('<table class="confusion">.*?</table>', page, re.DOTALL)
    for recipe, table in zip((A, B), tables, strict=True):
        assert re.search(rf"M1 {re.escape(recipe)}\W", table)
        matrices = [read_json(path)["confusion"] for path in work.glob(f"m1-{recipe}-fold*/evaluation/held_out.json")]
        counts = {int(number) for number in re.findall(r">(\d+)<", table)}
        assert counts == {sum(matrix[key] for matrix in matrices) for key in ("tp", "fp", "fn", "tn")}


def test_another_recipe_is_compared_with_those_trained_before(folded):
    """Only its own runs are trained."""
    _, ((first, before, section), (second, after, both), _) = folded
    assert B not in section and "Run 2 of 2" in first and "Run 2 of 2" in second
    assert {f"M1 {A}", f"M1 {B}"} < {line.split("|")[1].strip() for line in both.splitlines() if "|" in line}
    assert before == {path: content for path, content in after.items() if path in before}
    assert len(after) == 2 * len(before)


def test_trained_runs_are_not_trained_again(folded):
    _, (_, (_, before, section), (again, after, same)) = folded
    assert again.count("This run is complete") == 4
    assert not re.search(r"epoch +\d+/\d+", again)
    assert after == before
    assert same == section


def test_an_ensemble_of_runs_on_different_folds_is_refused(folded):
    work, _ = folded
    before = results_of_runs(work)
    line = refused("--mode=evaluate", "--workdir=work", "--data=chests", cwd=work.parent, run=in_process)
    assert "the runs in work were not trained on the same images" in line
    assert results_of_runs(work) == before


def test_an_ensemble_is_evaluated_on_other_images(seeded):
    """The mean of both runs' log-odds, with a temperature and thresholds fitted to that mean on val, at 5 %."""
    work = seeded / "work"
    done = in_process(
        "--mode=evaluate", "--workdir=work", "--data=other", "--config.evaluation.prevalence=0.05", cwd=seeded
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (work / "evaluation").iterdir()} == {"other-all.json", "other-all.csv"}
    ensemble, members = read_json(work / "evaluation/other-all.json"), [work / f"m1-{A}-seed{seed}" for seed in (0, 1)]
    assert ensemble["members"] == [path.name for path in members]
    assert (ensemble["n"], ensemble["positives"], ensemble["source"]) == (9, 5, str(seeded / "other"))
    assert ensemble["prevalence"] == 0.05
    ids, labels, p = scores(work / "evaluation/other-all.csv")

    def mean_log_odds(stem):
        log_odds = []
        for member in members:
            evaluation = read_json(member / f"evaluation/{stem}.json")
            log_odds.append(logit(scores(member / f"evaluation/{stem}.csv")[2]) - evaluation["offset"])
        return np.mean(log_odds, axis=0)

    for member in members:
        assert scores(member / "evaluation/other-all.csv")[0] == ids
        assert read_json(member / "evaluation/other-all.json")["prevalence"] == 0.05
    val = scores(members[0] / "evaluation/val.csv")[1]
    fitted = calibration.at_prevalence(calibration.fit(val, mean_log_odds("val")), 0.05)
    np.testing.assert_allclose(p, expit(mean_log_odds("other-all") / fitted.temperature + fitted.offset), rtol=1e-6)
    for name in ("temperature", "threshold", "threshold_sens95"):
        assert ensemble[name] == pytest.approx(getattr(fitted, name), rel=1e-4), name
    assert ensemble["auc"] == pytest.approx(sk.roc_auc_score(labels, p))
    assert f"{ensemble['auc']:.4f}" in done.stdout.partition("Ensemble of 2 runs")[2]


def test_an_ensemble_on_the_runs_own_images_agrees_with_the_tables(seeded):
    done = in_process("--mode=evaluate", "--workdir=work", cwd=seeded)
    assert (done.returncode, done.stderr) == (0, "")
    ensemble = read_json(seeded / "work/evaluation/test.json")
    line = next(line for line in (seeded / "work/experiment.md").read_text().splitlines() if f"m1 {A}, 2 runs" in line)
    shown = [cell.strip() for cell in line.split("|")[2:-1]]
    names = ("auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "ece")
    assert shown == [f"{ensemble[name]:.4f}" for name in names]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.experiment.recipes=best"], "no recipe 'best': choose from 28px, notebook, paper, recommended"),
        ([f"--config.experiment.recipes={A}+augment.noise"], "'augment.noise' is no field=value"),
        (["--config.experiment.models=m1,m9"], "no config 'm9': choose from m1, m2, m3"),
        (["--config.experiment.models=m1,base"], "no config 'base': choose from m1, m2, m3"),
        ([f"--workdir=work/m1-{A}-seed0"], f"m1-{A}-seed0 holds one run: choose another --workdir"),
        (["--workdir=work", "--config.optimizer.learning_rate=0.5"], "holds a run with other settings"),
        (["--workdir=work", "--config.epochs=2", "--config.experiment.seeds=7"], "holds a run with other settings"),
        (["--workdir=work", "--data=phantom"], "holds an experiment on"),
        (["--workdir=chests"], "chests is not empty and holds no experiment: choose another --workdir"),
    ],
)
def test_a_mistake_is_reported_in_one_line(seeded, arguments, message):
    assert message in refused(
        "--mode=experiment", *SMALL, "--data=chests", "--workdir=new", *arguments, cwd=seeded, run=in_process
    )


def test_a_site_is_set_up_for_the_ensemble_alone(seeded):
    """Its file is none of each run's."""
    line = refused("--mode=evaluate", "--workdir=work", "--config.site=here", cwd=seeded, run=in_process)
    assert "a site file is of the ensemble, not of its runs: use --model=work and another --workdir" in line


def test_a_dry_run_lists_the_runs_and_writes_nothing(seeded):
    """Two of the three runs are finished."""
    before = sorted((seeded / "work").rglob("*"))
    printed = experiment(
        seeded, "--data=chests", "--workdir=work", f"--config.experiment.recipes={A}",
        "--config.experiment.seeds=0,1,2", "--config.experiment.corruptions=false", "--config.experiment.dry_run",
    )  # fmt: skip
    rows = re.findall(r"^\| (m1-paper-seed\d) \| 1 +\| (\d+) +\| (\S.*?) +\|$", printed, re.MULTILINE)
    assert [(name, time == "finished") for name, _, time in rows] == [
        ("m1-paper-seed0", True), ("m1-paper-seed1", True), ("m1-paper-seed2", False),
    ]  # fmt: skip
    assert {count for _, count, _ in rows} == {"54"}  # a tenth of 60 becomes val
    assert "3 runs: about 0.1 min of training steps." in printed
    assert sorted((seeded / "work").rglob("*")) == before


def test_an_experiment_predicts_and_explains_as_its_ensemble_evaluates(seeded):
    """The same probabilities and thresholds as in the ensemble's evaluation; the maps are the mean of the runs' own."""
    common = ("--workdir=work", "--data=other", "--config.data.cache_dir=cache")
    for arguments in (("--mode=evaluate", *common), ("--mode=predict", *common, "--config.prediction.output=rows.csv")):
        done = in_process(*arguments, cwd=seeded)
        assert (done.returncode, done.stderr) == (0, "")
    evaluated = {row["id"]: float(row["probability"]) for row in read_rows(seeded / "work/evaluation/other-all.csv")}
    predicted = {row["id"].removeprefix("other/"): row for row in read_rows(seeded / "rows.csv")}
    assert {id: float(row["probability"]) for id, row in predicted.items()} == pytest.approx(evaluated, rel=1e-5)
    threshold = read_json(seeded / "work/evaluation/other-all.json")["threshold"]
    assert [float(row["threshold"]) for row in predicted.values()] == pytest.approx([threshold] * 9, rel=1e-6)
    settings = ("--config.explanation.methods=integrated-gradients", "--config.explanation.count=1", QUICK)
    done = in_process("--mode=explain", *common, *settings, cwd=seeded)
    assert (done.returncode, done.stderr) == (0, "")
    work, layout = epath.Path(seeded / "work"), sharding.layout(jax.devices()[:1])
    config = configs.with_fields(run_config.given(None, work), {"explanation.steps": 4})
    written = np.load(work / "explanations/other/maps.npz")
    with jax.set_mesh(layout.mesh):
        model = trained_models.load_model(config, work, layout)
        own = [
            explainer("integrated-gradients", member.model, config)(member.variables, written["images"][0])
            / member.scale
            for member in model.members
        ]
    assert np.ptp(own[0] - own[1]) > 0, "two models"
    np.testing.assert_allclose(
        written["integrated-gradients"][0], np.mean(own, 0), rtol=1e-3, atol=1e-4 * np.ptp(own[0])
    )
    assert "holds no single run: give --data" in refused("--mode=explain", "--workdir=work", cwd=seeded, run=in_process)


def test_an_ensemble_exports_as_one_model(seeded, tmp_path):
    """The folder has both networks, and predicts what the experiment's workdir predicts."""
    formats = "--config.export.formats=safetensors,stablehlo"
    done = in_process(
        "--mode=export", "--workdir=work", f"--config.export.output={tmp_path / 'both'}", formats, cwd=seeded
    )
    assert (done.returncode, done.stderr) == (0, "")
    description = read_json(tmp_path / "both/config.json")
    assert [network["prefix"] for network in description["networks"]] == ["0.", "1."]
    assert [training["settings"]["seed"] for training in description["training"]] == [0, 1]
    films = sorted((seeded / "other").rglob("*.png"))
    assert pneumojax_api.load(tmp_path / "both").predict(films) == pneumojax_api.load(seeded / "work").predict(films)
    assert read_json(tmp_path / "both/parity.json")["stablehlo"]["decisions_turned"] == 0
