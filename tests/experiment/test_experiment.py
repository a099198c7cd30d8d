"""`--mode=experiment` as a user meets it: runs, tables, more of them later, an ensemble on other images, mistakes."""

import csv
import json

import numpy as np
import pytest
from conftest import draw_folder, pneumojax
from scipy.special import expit, logit
from sklearn import metrics as sk

from pneumojax import calibration, shifts

SMALL = (
    "--config=m1", "--config.model.image_size=32", "--config.epochs=1", "--config.batch_size=8",
    "--config.data.cache_dir=cache",
)  # fmt: skip
A, B = "paper", "paper+augment.noise=0.03"


def experiment(folder, *arguments):
    """What is printed."""
    done = pneumojax("--mode=experiment", *SMALL, *arguments, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def read(path):
    return json.loads(path.read_text())


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scores(path):
    """(ids, labels, probabilities) of an evaluation's CSV."""
    table = rows(path)
    labels, probabilities = ([float(row[name]) for row in table] for name in ("label", "probability"))
    return [row["id"] for row in table], np.array(labels, int), np.array(probabilities)


def trained(work):
    """What a run's training and evaluation wrote."""
    return {path: path.read_bytes() for name in ("metrics.jsonl", "evaluation/*", "shifts/*") for path in
            work.glob(f"*/{name}")}  # fmt: skip


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """A workdir after recipe A on folds 0 and 2 of three, then B, and then both; what each time was printed and is
    trained, and the tables."""
    folder = tmp_path_factory.mktemp("folded")
    draw_folder(folder / "chests", "train", 30, 30)
    folds = ("--config.data.folds=3", "--config.experiment.folds=0,2")
    told = []
    for recipes in (A, B, f"{A},{B}"):
        printed = experiment(
            folder, "--data=chests", "--workdir=work", *folds, f"--config.experiment.recipes={recipes}"
        )
        told.append((printed, trained(folder / "work"), (folder / "work/experiment.md").read_text()))
    return folder / "work", told


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """A working folder with `work`, an experiment of one recipe under seeds 0 and 1, and `other`, more images."""
    folder = tmp_path_factory.mktemp("seeded")
    draw_folder(folder / "chests", "train", 30, 30)
    draw_folder(folder / "chests", "test", 6, 10, first=500)
    draw_folder(folder / "other", "", 4, 5, first=700)
    chosen = (f"--config.experiment.recipes={A}", "--config.experiment.seeds=0,1", "--config.experiment.shifts=false")
    experiment(folder, "--data=chests", "--workdir=work", *chosen)
    return folder


def test_every_run_has_a_folder_with_its_own_settings(folded):
    work, _ = folded
    folders = {path.name: path for path in work.iterdir() if path.is_dir() and path.name != "report"}
    assert set(folders) == {f"m1-{recipe}-fold{fold}-seed0" for recipe in (A, B) for fold in (0, 2)}
    for name, path in folders.items():
        config = read(path / "config.json")
        assert config["augment"]["noise"] == (0.03 if B in name else 0.0)
        assert (config["data"]["folds"], config["data"]["fold"]) == (3, 0 if "fold0" in name else 2)
        assert (path / "report/index.html").exists()
        assert {told.stem for told in path.glob("evaluation/*.json")} == {"train", "val", "held_out"}
        assert set(read(path / "shifts/held_out.json")) == {"clean", *shifts.SHIFTS}
    assert read(work / "experiment.json")["runs"] == [
        {"config": "m1", "recipe": recipe, "fold": fold, "seed": 0} for recipe in (A, B) for fold in (0, 2)
    ]


def test_recipes_are_judged_by_the_same_images_which_no_run_saw(folded):
    work, _ = folded
    held = {}
    for path in work.glob("*/splits.csv"):
        splits = {}
        for row in rows(path):
            splits.setdefault(row["split"], set()).add(row["id"])
        assert set(splits) == {"train", "val", "held_out"}
        held.setdefault(path.parent.name.partition("-fold")[2][0], []).append(splits["held_out"])
    assert all(one == other for one, other in held.values())
    assert not held["0"][0] & held["2"][0]


def test_shifts_begin_where_nothing_is_shifted(folded):
    """Clean is the evaluation itself; and shifts are more than names."""
    work, _ = folded
    for path in work.glob("*/shifts/held_out.json"):
        told, clean = read(path), read(path.parents[1] / "evaluation/held_out.json")
        assert told["clean"] == {key: clean[key] for key in told["clean"]}
        assert len({measured["bce"] for measured in told.values()}) == len(told)
        assert {measured["threshold"] for measured in told.values()} == {clean["threshold"]}


def test_the_tables_say_what_the_runs_evaluations_say(folded):
    work, told = folded
    printed, _, section = told[-1]
    assert section in printed
    for recipe in (A, B):
        found = [read(work / f"m1-{recipe}-fold{fold}-seed0/evaluation/held_out.json") for fold in (0, 2)]
        shown = [
            f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
            for name in ("auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
            for values in [[one[name] for one in found]]
        ]
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines()]
        assert [f"M1 {recipe}", "2", *shown] in lines
    for title in ("Models (Fig. 8), on held_out", "Calibration", "Time to", "Robustness", "Paired comparisons"):
        assert f"**{title}" in section
    page = (work / "report/index.html").read_text()
    assert page.count("<svg") == 1 and page.count('<table class="confusion">') == 2
    for recipe in (A, B):
        matrices = [read(path)["confusion"] for path in work.glob(f"m1-{recipe}-fold*/evaluation/held_out.json")]
        shown = page.partition(f"<b>M1 {recipe}</b>")[2].partition("</table>")[0]
        for key in ("tp", "fp", "fn", "tn"):
            assert f">{sum(matrix[key] for matrix in matrices)}<small>" in shown


def test_another_recipe_joins_what_is_there(folded):
    """Trained alone, and compared with what was trained before."""
    _, ((first, before, section), (second, after, both), _) = folded
    assert B not in section and "Run 2 of 2" in first and "Run 2 of 2" in second
    assert {f"M1 {A}", f"M1 {B}"} < {line.split("|")[1].strip() for line in both.splitlines() if "|" in line}
    assert before == {path: content for path, content in after.items() if path in before}
    assert len(after) == 2 * len(before)


def test_what_is_trained_is_not_trained_again(folded):
    _, (_, (_, before, section), (again, after, same)) = folded
    assert again.count("This run is complete") == 4
    assert "epoch " not in again.partition("**Models")[0]
    assert after == before
    assert same == section


def test_runs_on_different_folds_are_no_ensemble(folded):
    work, _ = folded
    before = trained(work)
    line = refused(work.parent, "--mode=evaluate", "--workdir=work", "--data=chests")
    assert "the runs in work were not trained on the same images" in line
    assert trained(work) == before


def test_an_ensemble_is_evaluated_on_other_images(seeded):
    """The mean of both runs' log-odds, at a temperature and thresholds of that mean on val, restated at 5 %."""
    work = seeded / "work"
    done = pneumojax(
        "--mode=evaluate", "--workdir=work", "--data=other", "--config.evaluation.prevalence=0.05", cwd=seeded
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (work / "evaluation").iterdir()} == {"other-all.json", "other-all.csv"}
    told, members = read(work / "evaluation/other-all.json"), [work / f"m1-{A}-seed{seed}" for seed in (0, 1)]
    assert told["members"] == [path.name for path in members]
    assert (told["n"], told["positives"], told["source"]) == (9, 5, str(seeded / "other"))
    assert told["prevalence"] == 0.05
    ids, labels, p = scores(work / "evaluation/other-all.csv")

    def mean_log_odds(stem):
        every = []
        for member in members:
            own = read(member / f"evaluation/{stem}.json")
            every.append(logit(scores(member / f"evaluation/{stem}.csv")[2]) - own["offset"])
        return np.mean(every, axis=0)

    for member in members:
        assert scores(member / "evaluation/other-all.csv")[0] == ids
        assert read(member / "evaluation/other-all.json")["prevalence"] == 0.05
    val = scores(members[0] / "evaluation/val.csv")[1]
    fitted = calibration.at_prevalence(calibration.fit(val, mean_log_odds("val")), 0.05)
    np.testing.assert_allclose(p, expit(mean_log_odds("other-all") / fitted.temperature + fitted.offset), rtol=1e-6)
    for name in ("temperature", "threshold", "threshold_sens95"):
        assert told[name] == pytest.approx(getattr(fitted, name), rel=1e-4), name
    assert told["auc"] == pytest.approx(sk.roc_auc_score(labels, p))
    assert f"auc {told['auc']:.4f}" in done.stdout.partition("Ensemble of 2 runs")[2]


def test_an_ensemble_on_the_runs_own_images_is_the_one_of_the_tables(seeded):
    done = pneumojax("--mode=evaluate", "--workdir=work", cwd=seeded)
    assert (done.returncode, done.stderr) == (0, "")
    told = read(seeded / "work/evaluation/test.json")
    line = next(line for line in (seeded / "work/experiment.md").read_text().splitlines() if f"m1 {A}, 2 runs" in line)
    shown = [cell.strip() for cell in line.split("|")[2:-1]]
    names = ("auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "ece")
    assert shown == [f"{told[name]:.4f}" for name in names]


def refused(folder, *arguments) -> str:
    """The one line with which the command line refuses."""
    before = sorted(folder.rglob("*"))
    plans = sorted(folder.rglob("experiment.json"))
    plans_before = [path.read_bytes() for path in plans]
    done = pneumojax(*arguments, cwd=folder)
    assert done.returncode == 2, (done.returncode, done.stderr)
    [line] = done.stderr.splitlines()
    assert line.startswith("pneumojax: ")
    assert sorted(folder.rglob("*")) == before, "nothing is written"
    assert [path.read_bytes() for path in plans] == plans_before, "nor written over"
    return line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config.experiment.recipes=best"], "no recipe 'best': there is 28px, notebook, paper, recommended"),
        ([f"--config.experiment.recipes={A}+augment.noise"], "'augment.noise' is no field=value"),
        (["--config.experiment.models=m1,m9"], "no config 'm9': there is m1, m2, m3"),
        ([f"--workdir=work/m1-{A}-seed0"], f"m1-{A}-seed0 holds one run: choose another --workdir"),
        (["--workdir=work", "--config.optimizer.learning_rate=0.5"], "holds a run with other settings"),
        (["--workdir=work", "--config.epochs=2", "--config.experiment.seeds=7"], "holds a run with other settings"),
        (["--workdir=work", "--data=phantom"], "holds an experiment on"),
        (["--workdir=chests"], "chests is not empty and holds no experiment: choose another --workdir"),
    ],
)
def test_a_mistake_is_one_line(seeded, arguments, says):
    assert says in refused(seeded, "--mode=experiment", *SMALL, "--data=chests", "--workdir=new", *arguments)
