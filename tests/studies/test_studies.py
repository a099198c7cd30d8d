"""Every study runs on a small input, prints its tables and writes the figures that they show."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from pneumojax.data.source import Split
from pneumojax.data.sources import open_source, phantom
from pneumojax.runtime import allocator, run_log
from pneumojax.runtime.errors import UserError
from pneumojax.training import checkpoint
from studies import (
    chexpert_like,
    copies_search,
    explaining,
    export_parity,
    feeding_overlap,
    first_film,
    integrated_gradients_sum,
    jobs,
    links,
    loading,
    predicting,
    runtimes,
    size,
    start,
    study,
)

NAMES = sorted(path.stem for path in (study.ROOT / "studies").glob("*.py") if "study.run(main)" in path.read_text())
Run = Callable[..., dict]


@pytest.fixture(autouse=True)
def undone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Undo what a study sets for its own process, and keep it out of the user's cache."""
    verbosity = logging.get_verbosity()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(run_log.console, "quiet", run_log.console.quiet)
    monkeypatch.setattr(allocator, "keep_freed", lambda: None)
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture(scope="session")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 12 JPEGs at 160 px."""
    root = tmp_path_factory.mktemp("jpegs") / "train"
    for index in range(12):
        label = index % 2
        folder = root / ("NORMAL", "PNEUMONIA")[label]
        folder.mkdir(parents=True, exist_ok=True)
        image, _ = phantom.render(seed=3, index=index, label=label, size=160)
        Image.fromarray(image).save(folder / f"{index}.jpeg", quality=95)
    return root


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture) -> Run:
    """Run a study as its command does; return the result that it writes."""

    def result(study: ModuleType, *arguments: object) -> dict:
        path = tmp_path / "result.json"
        study.main([*map(str, arguments), f"--output={path}"])
        found = json.loads(path.read_text())
        name = study.__name__.removeprefix("studies.")
        assert found["study"] == name
        assert found["command"].startswith(f"python -m studies.{name}")
        assert found.keys() == {"study", "command", "machine", "date", "commit", "figures"}
        assert "| " in capsys.readouterr().out
        return found["figures"]

    return result


def test_a_tree_like_chexperts(tmp_path: Path) -> None:
    tree = chexpert_like.generate(tmp_path, 12, processes=1)
    source = open_source(str(tree))
    assert {record.split for record in source.records} == {"train", "val"} and len(source.records) == 12
    assert {record.label for record in source.records} == {0, 1}
    assert len({record.patient for record in source.records}) < 12
    assert all((tree / record.id).is_file() for record in source.records)
    with pytest.raises(UserError, match="exists"):
        chexpert_like.generate(tmp_path, 12, processes=1)


@pytest.mark.slow
def test_stages_by_size(run: Run, tmp_path: Path) -> None:
    found = run(size, tmp_path / "trees", "--counts=80,160")
    assert [row["stage"] for row in found["rows"]] == 2 * list(size.STAGES)
    assert all(row["memory_gb"] > row["own_gb"] > 0 for row in found["rows"]) and len(found["sizes"]) == 2


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("tc"), reason="network namespaces need root and iproute2")
def test_steps_over_a_shaped_link(run: Run) -> None:
    """A slow link adds about the time that the ring's bytes take on it; here it is that it adds any."""
    free, shaped = run(links, "--processes=2", "--gbit=1", "--epochs=2", "--rounds=1")["rows"]
    assert free["gbit"] is None and free["added_ms"] is None
    assert shaped["ring_ms"] == pytest.approx(8 * shaped["sent_mb"]) and shaped["step_ms"] > free["step_ms"]


def test_the_search_for_copies(run: Run) -> None:
    [few, more] = run(copies_search, "--counts=20,40")["rows"]
    assert (few["images"], more["images"]) == (20, 40)
    assert few["seconds"] > 0 and few["found"] == few["copies"] == 1
    assert isinstance(more["exponent"], float)


@pytest.mark.slow
def test_the_sum_of_integrated_gradients(run: Run, finished: tuple[Path, str], jpegs: Path) -> None:
    images = ",".join(map(str, sorted(jpegs.rglob("*.jpeg"))[:2]))
    given = (f"--workdir={finished[0] / 'work'}", f"--images={images}", "--steps=2,4")
    rows = run(integrated_gradients_sum, *given)["rows"]
    assert [(row["baseline"], row["steps"]) for row in rows] == [
        ("blurred", 2), ("blurred", 4), ("black", 2), ("black", 4),
    ]  # fmt: skip
    assert all(0 <= row["least"] <= row["most"] and row["images"] == 2 for row in rows)


@pytest.mark.slow
def test_feeding_within_one_process(
    run: Run, splits: dict[str, Split], config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding_overlap.configs, "load", lambda model: config)  # compiled sooner
    monkeypatch.setattr(feeding_overlap, "train_split", lambda config: splits["train"])
    rows = run(feeding_overlap, f"--size={config.model.image_size}", "--rounds=1")["rows"]
    assert [row["side"] for row in rows] == [
        "from the host",
        "by tf.data, from memory",
        "from the host, and a thread computes for 1.4 ms",
        "by the feed",
    ]
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows)


@pytest.mark.slow
def test_explaining_beside_captum(run: Run) -> None:
    """Where Captum is missing, its side has no figure and the row says why."""
    [row] = run(explaining, "--models=m1", "--methods=grad-cam", "--size=32", "--rounds=1", "--seconds=0.01")["rows"]
    assert row["pneumojax_ms"] > 0
    assert (row["captum_ms"] is None) == (row["ratio"] is None)
    assert row["way"]


def test_explaining_by_captum(run: Run) -> None:
    pytest.importorskip("captum", reason="Captum is not installed: make test-peers")
    [row] = run(explaining, "--models=m1", "--methods=smooth-grad", "--size=32", "--rounds=1", "--seconds=0.01")["rows"]
    assert row["ratio"]["median"] > 0
    assert "at a time" in row["way"]


@pytest.mark.slow
def test_inference_beside_runtimes(run: Run) -> None:
    """Where OpenVINO is missing, its side has no figure and the row says why."""
    given = ("--models=m1", "--batches=1", "--size=16", "--rounds=1", "--seconds=0.01")
    [row] = run(runtimes, *given, "--sides=pneumojax,pneumojax-load,onnxruntime-logit,openvino")["rows"]
    assert row["sides"].keys() == {"pneumojax", "pneumojax-load", "onnxruntime-logit", "openvino"}
    for side in ("pneumojax", "pneumojax-load", "onnxruntime-logit"):
        assert row["sides"][side]["images_per_s"] > 0
    assert row["ratios"]["onnxruntime-logit"]["median"] > 0
    assert ("reason" in row["sides"]["openvino"]) == ("openvino" not in row["ratios"])


def test_runtimes_have_no_unknown_side(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        runtimes.main(["--sides=abacus"])
    assert "--sides has no abacus: choose of pneumojax" in capsys.readouterr().err


def test_loading(run: Run, jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "one_thread", lambda: None)  # TensorFlow may be in use in this process
    monkeypatch.setattr(loading, "BATCH", 4)
    given = (f"--large={jpegs}", f"--small={jpegs}", "--rounds=1", "--prepare=small:20:1", "--fed=40")
    figures = run(loading, *given)
    own, pillow, *_ = figures["large"]
    assert (own["way"], own["ratio"]) == ("pneumojax", None)
    assert pillow["mean_error"] == pillow["worst_error"] == 0
    [prepared] = figures["preparing"]
    assert (prepared["images"], prepared["cores"]) == (20, 1)
    assert prepared["reading_per_s"] > prepared["whole_per_s"] > 0
    assert figures["feed"][0]["images_per_s"] > 0


@pytest.mark.slow
def test_predicting(run: Run, finished: tuple[Path, str], jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs for the many images alone; for the few, its figures are made of those."""
    real = predicting.predicted

    def predicted(workdir: str, folder: Path, scratch: Path, every: float) -> tuple[float, list[int]]:
        if folder.name == "30" and every == predicting.NEVER:
            return real(workdir, folder, scratch, every=0.5)
        return 0.5, [1_000_000, 3_000_000, 2_000_000]

    monkeypatch.setattr(predicting, "predicted", predicted)
    given = (f"--workdir={finished[0] / 'work'}", f"--data={jpegs}", "--count=30", "--rounds=1", "--seconds=0.01")
    rows = run(predicting, *given)["rows"]
    alone, read, bound, whole, _, few = rows
    assert alone["images_per_s"] > whole["images_per_s"] > 0
    assert bound["images_per_s"] == pytest.approx(1 / (1 / alone["images_per_s"] + 1 / read["images_per_s"]))
    assert whole["of_bound"] == pytest.approx(whole["images_per_s"] / bound["images_per_s"])
    assert (few["images"], few["peak_gb"], few["late_min_gb"], few["late_max_gb"]) == (3, 0.003, 0.002, 0.003)


def test_memory_of_a_command_is_watched() -> None:
    printed, memory = predicting.watched([sys.executable, "-c", "import time; time.sleep(0.3); print('done')"], 0.05)
    assert printed == "done\n"
    assert max(memory).total > max(memory).own > 1e6


def test_saving(run: Run, chests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training compiles and is not counted; then one saves and one does not."""
    real, saves = checkpoint.save, []
    monkeypatch.setattr(jobs, "train", lambda *given: saves.append(checkpoint.save is real))
    [row] = run(jobs, "--of=saving", f"--data={chests}", "--size=32", "--epochs=1", "--rounds=1")["saving"]
    assert saves == [True, True, False]
    assert row["images"] > 100
    assert row["ratio"]["median"] == pytest.approx(row["saving_s"] / row["bare_s"])


def test_one_save(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "FAMILY", ("m1",))
    [row] = run(jobs, "--of=one-save", "--size=32", "--rounds=1")["one_save"]
    assert row["size_mb"] == pytest.approx(5, abs=2)  # of 0.42 million parameters, three times four bytes
    assert 0 < row["min"] <= row["median"] <= row["max"]


# What a job does as far as this study sees: it writes a line of metrics, and ends with 75 where it is stopped.
JOB = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
workdir, epochs = pathlib.Path(sys.argv[1]), int(sys.argv[2])
workdir.mkdir()
line = {"step": 4, "epoch": epochs, "split": "train", "images_per_second": 8.0}
(workdir / "metrics.jsonl").write_text(json.dumps(line) + "\\n")
time.sleep(60 if epochs > 100 else 0)
"""


def test_stopping_and_sharing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_job(given: object, count: int, workdir: Path, epochs: int) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", JOB, str(workdir), str(epochs)])

    monkeypatch.setattr(jobs, "start_job", start_job)
    figures = run(jobs, "--of=stopping,sharing", "--rounds=1", "--wait=0")
    assert [row["processes"] for row in figures["stopping"]] == [1, 2]
    assert figures["sharing"] == [
        {"model": "M1", "one": 8.0, "two": 8.0, "ratio": {"median": 1.0, "min": 1.0, "max": 1.0}}
    ]


def test_what_jobs_cannot_measure_is_a_mistake(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        jobs.main(["--of=sleeping"])
    assert "--of has no sleeping: choose of saving, one-save" in capsys.readouterr().err


def test_starts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start of a real command is in test_start.py."""
    monkeypatch.setattr(start, "prepare", lambda arguments: None)
    monkeypatch.setattr(start, "first_step", lambda scratch, *arguments: float(len(arguments)))
    rows = run(start, "--rounds=2")["rows"]
    assert [(row["starts"], row["median"]) for row in rows] == [(2, 1.0), (2, 1.0), (2, 2.0)]


def test_exported_graphs_beside_the_model(run: Run, finished: tuple[Path, str], jpegs: Path) -> None:
    rows = run(export_parity, f"--models={finished[0] / 'work'}", f"--films={jpegs}", "--count=5")["rows"]
    assert [(row["films"], row["prevalence"]) for row in rows] == [(5, "as in val"), (5, "0.2")]
    assert all(row["squares"]["logit"] < 1e-5 > row["squares"]["map"] for row in rows)
    assert all(row["files"]["decisions_turned"] == 0 < row["files"]["logit"] for row in rows)


def test_first_films(run: Run, tmp_path: Path) -> None:
    """A real process, with the shipped model."""
    film = tmp_path / "film.png"
    Image.fromarray(phantom.render(seed=3, index=0, label=0, size=150)[0]).save(film)
    cold, warm, command = run(first_film, "--rounds=1", f"--film={film}")["rows"]
    assert 0 < cold["import"]["median"] < cold["load"]["median"] < cold["predict"]["median"]
    assert warm["starts"] == 1
    assert command["load"] is None and command["predict"]["median"] > 0
    with pytest.raises(SystemExit, match="was not predicted"):
        first_film.main(["--rounds=1", f"--film={tmp_path / 'none.png'}"])


@pytest.mark.parametrize("name", NAMES)
def test_each_study_has_help(name: str, capsys: pytest.CaptureFixture) -> None:
    module = importlib.import_module(f"studies.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m studies.{name}" in shown and "--output" in shown


def test_a_users_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(argv: list[str]) -> None:
        raise UserError("no such run: give another --workdir")

    monkeypatch.setattr(sys, "argv", ["study"])
    with pytest.raises(SystemExit, match="^no such run: give another --workdir$"):
        study.run(main)
