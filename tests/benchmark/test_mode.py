"""`--mode=benchmark` as a user meets it."""

import json

import pytest
from conftest import ROOT, pneumojax

from pneumojax.benchmark import page


def test_it_measures_without_tensorflow_and_says_what_it_could_not(tmp_path):
    """A small run: files, tables, and a line in place of the feed's figures."""
    for name in ("tensorflow", "tensorflow_datasets"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')")
    fields = {"modes": "infer,feed", "image_sizes": "16", "batch_sizes": "2", "devices": "2", "seconds": "0.01"}
    flags = [f"--config.benchmark.{field}={text}" for field, text in fields.items()]
    done = pneumojax("--mode=benchmark", "--config=m3", *flags, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 0, done.stderr
    work = tmp_path / "runs/benchmark-m3"
    found = json.loads((work / page.JSON).read_text())
    infer, feed = found["rows"]
    assert (infer["model"], infer["mode"], infer["devices"]) == ("m3", "infer", 2)
    for name in ("compile_s", "images_per_s", "gflops", "peak_bytes"):
        assert infer[name] > 0
    assert infer["step_s"]["p10"] <= infer["step_s"]["median"] <= infer["step_s"]["p90"]
    assert "tensorflow" in feed["reason"]
    assert found["matrix_product"]["gflops"]["float32"] > 0
    assert found["memory_gb_s"] > 0
    assert "--config.benchmark.modes=infer,feed" in found["command"]
    section = (work / page.SECTION).read_text()
    assert section == page.section([found])
    assert section in done.stdout
    assert done.stderr == ""
    again = pneumojax("--mode=benchmark", "--config=m3", *flags, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert again.returncode == 2
    assert again.stderr.endswith("holds a benchmark that has ended: choose another --workdir\n")
    assert (work / page.SECTION).read_text() == section


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config.benchmark.batch_sizes=many"], "'benchmark.batch_sizes' must be a comma list of numbers"),
        (["--data=nowhere"], "no such data: 'nowhere'"),
        (["--workdir=."], "is not empty and holds no benchmark"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, says):
    (tmp_path / "thesis.tex").write_text("precious")
    done = pneumojax("--mode=benchmark", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert says in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
