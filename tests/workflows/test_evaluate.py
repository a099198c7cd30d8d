"""Evaluating a run on its own images and on others: the right labels, thresholds, corruptions and warnings."""

import json
import shutil

import pytest
from etils import epath
from support import draw, draw_folder, one_epoch, read_json, read_rows

from pneumojax.evaluation import corruptions
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import UserError
from pneumojax.workflows import evaluate, train

pytestmark = [
    pytest.mark.usefixtures("one_device"),
    pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning"),  # Protobuf's, called by TFDS
]


@pytest.mark.slow
def test_a_run_on_28_pixels_is_evaluated_on_every_kind_of_source(npz, chexpert, tmp_path, draw_rsna):
    work = epath.Path(tmp_path / "work")
    config = configs.with_fields(one_epoch(npz, tmp_path), {"model.image_size": 28})
    train.train_and_evaluate(config, work)
    own = {path.stem: read_json(path)["n"] for path in (work / "evaluation").glob("*.json")}
    assert own == {"train": 46, "val": 14, "test": 12}
    draw_rsna(tmp_path / "rsna", 10)
    for source, stem, n, positives in (
        (tmp_path / "rsna", "rsna-all", 10, 5),
        (chexpert, "CheXpert_v1.0_small-val", 8, 5),
    ):
        stems = evaluate.evaluate_run(config, work, str(source))
        assert stem in stems
        evaluation = read_json(work / f"evaluation/{stem}.json")
        assert (evaluation["n"], evaluation["positives"]) == (n, positives)


@pytest.mark.slow
def test_sources_of_one_name_do_not_overwrite_each_other(complete, tmp_path):
    config, work = complete(tmp_path)
    draw_folder(tmp_path / "one/data", "", 3, 3)
    draw_folder(tmp_path / "two/data", "", 4, 4)
    evaluate.evaluate_run(config, work, str(tmp_path / "one/data"))
    [stem] = evaluate.evaluate_run(config, work, str(tmp_path / "two/data"))
    assert read_json(work / "evaluation/data-all.json")["n"] == 6
    assert read_json(work / f"evaluation/{stem}.json")["n"] == 8
    assert evaluate.evaluate_run(config, work, str(tmp_path / "one/data")) == ["data-all"]


def test_an_evaluation_that_0_1_wrote_keeps_its_name(complete, tmp_path):
    """That version recorded the place in the file alone."""
    config, work = complete(tmp_path)
    draw_folder(tmp_path / "two/data", "", 3, 3)
    (work / "evaluation/data-all.json").write_text('{"source": "/one/data"}')
    [stem] = evaluate.evaluate_run(config, work, str(tmp_path / "two/data"))
    assert stem.startswith("data-") and stem.endswith("-all")
    assert read_json(work / "evaluation/data-all.json") == {"source": "/one/data"}


@pytest.mark.slow
def test_the_label_table_of_the_run_is_not_used_for_another_source(tmp_path):
    """Another hospital's images may have the same names: their own folders say their labels."""
    for number in range(40):
        draw(tmp_path / f"own/{number}.png", number % 2, number)
    table = "\n".join(["image,label", *(f"{number}.png,{number % 2}" for number in range(40))])
    (tmp_path / "own/labels.csv").write_text(table)
    for number in range(6):
        draw(tmp_path / f"other/{('PNEUMONIA', 'NORMAL')[number % 2]}/{number}.png", 1 - number % 2, 50 + number)
    shutil.copy(tmp_path / "own/labels.csv", tmp_path / "other/labels.csv")
    config = one_epoch(tmp_path / "own", tmp_path, labels=str(tmp_path / "own/labels.csv"))
    work = epath.Path(tmp_path / "work")
    train.train_and_evaluate(config, work)
    evaluate.evaluate_run(config, work, str(tmp_path / "other"))
    labels = {row["id"]: row["label"] for row in read_rows(work / "evaluation/other-all.csv")}
    assert labels == {f"{('PNEUMONIA', 'NORMAL')[n % 2]}/{n}.png": str(1 - n % 2) for n in range(6)}


def test_training_images_elsewhere_are_no_external_data(complete, chests, tmp_path, capsys):
    """Their scores are far too good: the terminal says so before them, and the report at once."""
    config, work = complete(tmp_path)
    shutil.copytree(chests / "train", tmp_path / "other hospital")
    draw_folder(tmp_path / "other hospital", "", 2, 2, first=500)
    [stem] = evaluate.evaluate_run(config, work, str(tmp_path / "other hospital"))
    evaluation = read_json(work / f"evaluation/{stem}.json")
    assert evaluation["known_images"] == evaluation["n"] - 4
    printed = capsys.readouterr().out
    assert 0 <= printed.find("was trained or chosen on") < printed.find(f"{stem} (n=")
    page = (work / "report/index.html").read_text()
    assert f"{stem}: " in page
    assert "was trained or chosen on" in page
    assert "Worst errors" in page


def test_files_that_changed_since_the_run_started_are_reported(complete, chests, tmp_path, capsys):
    config, work = complete(tmp_path)
    changed = chests / "train/NORMAL/chest 000.png"
    before = shutil.copy2(changed, tmp_path)
    draw(changed, 1, 7)
    try:
        evaluate.evaluate_run(config, work, None)
    finally:
        shutil.copy2(before, changed)
    assert "have changed since the run started" in capsys.readouterr().out


def test_another_prevalence_changes_probabilities_and_no_decision(complete, tmp_path, capsys):
    """By Bayes' rule: the odds of pneumonia are multiplied by the ratio of the two prevalences' odds."""
    config, work = complete(tmp_path)
    before, rows_before = read_json(work / "evaluation/test.json"), read_rows(work / "evaluation/test.csv")
    assert before["prevalence"] == 0.5
    evaluate.evaluate_run(configs.with_fields(config, {"evaluation.prevalence": 0.05}), work, None)
    assert "have changed" not in capsys.readouterr().out, "no image has"
    after, rows_after = read_json(work / "evaluation/test.json"), read_rows(work / "evaluation/test.csv")

    def restated(p):
        return p * 0.05 / (p * 0.05 + (1 - p) * 0.95)

    for row, row_after in zip(rows_before, rows_after, strict=True):
        expected = restated(float(row["probability"]))
        assert float(row_after["probability"]) == pytest.approx(expected, rel=1e-5)  # float32's rounding of logits
    assert after["prevalence"] == 0.05
    for name in ("confusion", "confusion_at_sens95", "balanced_accuracy", "auc", "bce", "temperature"):
        assert after[name] == pytest.approx(before[name]), name
    for name in ("threshold", "threshold_sens95"):
        assert after[name] == pytest.approx(restated(before[name])), name


def test_corruptions_are_evaluated_on_request(complete, tmp_path, capsys):
    """On the foremost split, also of a run that was complete without them; and on another source."""
    config, work = complete(tmp_path)
    assert not (work / "corruptions").exists()
    config = configs.with_fields(config, {"evaluation.corruptions": True})
    train.train_and_evaluate(config, work)
    assert "This run is complete" not in capsys.readouterr().out
    train.train_and_evaluate(config, work)
    assert "This run is complete" in capsys.readouterr().out
    draw_folder(tmp_path / "other", "", 3, 4)
    evaluate.evaluate_run(config, work, str(tmp_path / "other"))
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("other-all", "clean", *corruptions.CORRUPTIONS))
    assert {path.name for path in (work / "corruptions").iterdir()} == {"test.json", "other-all.json"}
    for stem, n in (("test", 40), ("other-all", 7)):
        summaries = read_json(work / f"corruptions/{stem}.json")
        clean = read_json(work / f"evaluation/{stem}.json")
        assert list(summaries) == ["clean", *corruptions.CORRUPTIONS]
        assert summaries["clean"] == {key: clean[key] for key in summaries["clean"]}
        assert {summary["n"] for summary in summaries.values()} == {n}
        assert {summary["threshold"] for summary in summaries.values()} == {clean["threshold"]}


def test_a_config_given_to_evaluate_is_not_changed(complete, tmp_path):
    config, work = complete(tmp_path)
    draw_folder(tmp_path / "other", "", 3, 4)
    config = configs.with_fields(config, {"data.source": str(tmp_path / "elsewhere")})
    before = config.to_dict()
    assert evaluate.evaluate_run(config, work, str(tmp_path / "other")) == ["other-all"]
    assert config.to_dict() == before


def test_images_that_have_moved_are_the_runs_own(complete, chests, tmp_path):
    """They are known by their ids, labels and pixels. Another picture under an old name is another source."""
    config, work = complete(tmp_path)
    moved = shutil.copytree(chests, tmp_path / "moved")
    before = read_json(work / "evaluation/test.json")
    assert evaluate.evaluate_run(config, work, str(moved)) == ["test", "train", "val"]
    after = read_json(work / "evaluation/test.json")
    assert after["source"] == str(moved)
    same = ("n", "confusion", "threshold", "auc")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["bce"] == pytest.approx(before["bce"], rel=1e-5)  # another process computed it
    train.train_and_evaluate(configs.with_fields(config, {"data.source": str(moved)}), work)
    draw(moved / "test/NORMAL/chest 000.png", 0, 99)
    assert evaluate.evaluate_run(config, work, str(moved)) == ["moved-test", "moved-train"]
    with pytest.raises(UserError, match="the images are not those that the run in .* started with"):
        train.train_and_evaluate(configs.with_fields(config, {"data.source": str(moved)}), work)


def test_images_that_are_gone_are_asked_for(complete, tmp_path):
    config, work = complete(tmp_path)
    tree = read_json(work / "config.json")
    tree["data"]["source"] = "/gone/chests"
    (work / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match="no such data.*/gone/chests.*name their new place with --data"):
        evaluate.evaluate_run(configs.read(work / "config.json"), work, None)
