"""`--mode=benchmark` as a user runs it."""

import json

import pytest
from support import ROOT, pneumojax

from pneumojax.benchmark import benchmark_tables
from pneumojax.runtime import workdir as workdirs


@pytest.mark.slow
def test_it_measures_without_tensorflow_and_says_what_it_could_not_measure(tmp_path):
    """TensorFlow is optional: only the feed needs it, and its row then has a reason instead of figures."""
    for name in ("tensorflow", "tensorflow_datasets"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')")
    fields = {"modes": "infer,feed", "image_sizes": "16", "batch_sizes": "2", "devices": "2", "seconds": "0.01"}
    flags = [f"--config.benchmark.{field}={text}" for field, text in fields.items()]
    result = pneumojax("--mode=benchmark", "--config=m3", *flags, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert result.returncode == 0, result.stderr
    work = tmp_path / "runs/benchmark-m3"
    benchmark = json.loads((work / workdirs.BENCHMARK).read_text())
    infer, feed = benchmark["rows"]
    assert (infer["model"], infer["mode"], infer["devices"]) == ("m3", "infer", 2)
    for name in ("compile_s", "images_per_s", "gflops", "peak_bytes"):
        assert infer[name] > 0
    assert infer["step_s"]["p10"] <= infer["step_s"]["median"] <= infer["step_s"]["p90"]
    assert "tensorflow" in feed["reason"]
    assert benchmark["matrix_product"]["gflops"]["float32"] > 0
    assert benchmark["memory_gb_s"] > 0
    assert "--config.benchmark.modes=infer,feed" in benchmark["command"]
    section = (work / workdirs.BENCHMARK_TABLES).read_text()
    assert section == benchmark_tables.section(benchmark)
    assert section in result.stdout
    assert result.stderr == ""
    again = pneumojax("--mode=benchmark", "--config=m3", *flags, cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert again.returncode == 2
    assert again.stderr.endswith("holds a finished benchmark: choose another --workdir\n")
    assert (work / workdirs.BENCHMARK_TABLES).read_text() == section


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.benchmark.batch_sizes=many"], "'benchmark.batch_sizes' must be a comma-separated list of numbers"),
        (["--data=nowhere"], "no such data: 'nowhere'"),
        (["--workdir=."], "is not empty and holds no benchmark"),
    ],
)
def test_a_mistake_is_explained_in_one_line_and_leaves_the_folder_alone(tmp_path, arguments, message):
    (tmp_path / "thesis.tex").write_text("precious")
    result = pneumojax("--mode=benchmark", *arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
