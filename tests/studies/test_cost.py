"""The cost model from fixed figures, every shown number worked out by hand."""

import json
from pathlib import Path

import pytest

from pneumojax.benchmark import flops
from pneumojax.benchmark.tasks import INFER, TRAIN
from pneumojax.runtime.errors import UserError
from studies import cost, speed, tables, traffic

STEP = {"model": "m1", "mode": "train", "batch_size": 32, "image_size": 150, "precision": "float32", "devices": 1}
BENCHMARK = {
    "command": "python -m pneumojax.main --mode=benchmark",
    "machine": {
        "cpu": "CPU X", "instructions": "AVX", "cores": 2, "memory_bytes": 24e9, "platform": "cpu", "device": "cpu",
        "kernels": True, "system": "Linux", "versions": {"jax": "1.0"},
    },
    "matrix_product": {"size": 4096, "gflops": {"float32": 200.0, "bfloat16": 400.0}},
    "memory_gb_s": 40.0,
    "rows": [
        STEP | {"step_s": {"median": 0.16}, "images_per_s": 200.0},
        STEP | {"devices": 2, "step_s": {"median": 0.01}, "images_per_s": 3200.0},
        STEP | {"precision": "bfloat16", "step_s": {"median": 0.32}, "images_per_s": 100.0},
        STEP | {"mode": "feed", "step_s": {"median": 0.01}, "images_per_s": 3200.0},
        STEP | {"mode": "infer", "reason": "no memory"},
    ],
}  # fmt: skip
FASTER = STEP | {"step_s": {"median": 0.128}, "images_per_s": 250.0}
WITHOUT_MEMORY = {name: value for name, value in BENCHMARK.items() if name != "memory_gb_s"}


def shown(name: str, benchmarks: list[dict]) -> list[list[str]]:
    """The cells of a table of the cost model."""
    lines = tables.render(name, cost.counts() | cost.measured(benchmarks)).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_roofline_by_hand() -> None:
    """M3 at 8 px: three times the forward pass at 1 GFLOP/s; an image's bytes, and half of a step's, at 1 MB/s."""
    convolutions = 2 * 9 * (64 * 8**2 + 64 * 128 * 4**2 + 128 * 256 * 2**2)
    operations = 3 * (convolutions + 2 * 256 * 128 + 2 * 128)
    moved = traffic.image_bytes("m3", 8, train=True) + traffic.step_bytes("m3", 8, train=True) / 2
    found = cost.roofline("m3", TRAIN, 8, 2, cost.Rates(1e9, 1e6))
    assert found == pytest.approx((operations / 1e9, moved / 1e6))
    assert found.bound == "bytes"
    assert found.images_per_s == pytest.approx(1e6 / moved)
    forward = cost.roofline("m3", INFER, 8, 1, cost.Rates(1e9, 1e12))
    assert forward.compute == pytest.approx(operations / 3 / 1e9)
    assert forward.bound == "FLOPs"


def test_chexpert_on_eight_devices_by_hand() -> None:
    """876 batches of 256 are in 224,316 images; 7/4 of 4 x 1,246,401 bytes take 6.98 ms at 1.25 GB/s."""
    found = cost.scaled("m1", 0.1, 8, 1.25e9)
    assert found.steps == 87_600
    assert found.communication == pytest.approx(7 * 1_246_401 / 1.25e9)
    assert found.hours == pytest.approx(87_600 * 0.1069798 / 3600, rel=1e-5)
    assert found.efficiency == pytest.approx(0.1 / 0.1069798, rel=1e-5)


def test_what_is_counted() -> None:
    m1, m2, m3 = shown("cost-counted", [BENCHMARK])
    assert (m1[:4], m2[:4], m3[:4]) == (
        ["M1", "1,246,401", "0.44", "1.32"],
        ["M2", "3,666,817", "0.65", "1.96"],
        ["M3", "12,200,961", "1.73", "5.19"],
    )
    assert m3[6] == "488"  # ten times four bytes of 12.2 million
    growth = shown("cost-growth", [BENCHMARK])
    assert [row[-1] for row in growth if row[0] == "M1"] == ["1.25", "2.03", "3.70", "8.82"]
    ring = shown("cost-ring", [BENCHMARK])
    assert [row[-1] for row in ring if row[0] == "M1"] == ["0.0", "8.7", "9.8", "9.9"]


def test_the_roofline_of_a_gpu_is_of_published_figures() -> None:
    """M1's 1.32 GFLOP at 67 TFLOP/s: 50,684 images/s; its 17.4 MB at 3.35 TB/s would allow more."""
    assert shown("cost-h100", [BENCHMARK])[0][-1] == f"{67e12 / flops.training('m1', 150):,.0f} (FLOPs)"


def test_what_was_measured_beside_the_roofline() -> None:
    """M1's step of 1.322 GFLOP at 200 GFLOP/s takes 6.61 ms; its 15.8 MB with 50 / 32 at 40 GB/s, 0.43 ms.

    In bfloat16 there are half the bytes of images, and as many of parameters.
    """
    name = "2 cores of CPU X with AVX, CPU kernels built"
    assert shown("cost-rates", [BENCHMARK]) == [[name, "float32", "200", "40.0"], [name, "bfloat16", "400", "40.0"]]
    narrow, wide = shown("cost-roofline", [BENCHMARK])
    assert wide == ["M1", "train", "32", "150", "float32", "6.61", "0.43", "151", "200", "1.32"]
    assert narrow == ["M1", "train", "32", "150", "bfloat16", "3.30", "0.24", "303", "100", "0.33"]
    # 759,900 images / 200 / 3600; 200 / 8.795.
    assert shown("cost-paper", [BENCHMARK])[0] == ["M1", "float32", "200", "1.06", "23"]
    one, eight, _, most = shown("cost-chexpert", [BENCHMARK])
    assert one == ["1", "32", "700,900", "160", "0", "31.15", "200", "1.00"]
    assert eight[:5] == ["8", "256", "87,600", "160", "6.98"]
    assert most[:3] == ["256", "8192", "2,700"]


def test_of_several_runs_on_a_machine_the_best_counts() -> None:
    older = WITHOUT_MEMORY | {"rows": [FASTER], "matrix_product": {"gflops": {"float32": 300.0}}}
    assert [row[2:] for row in shown("cost-rates", [BENCHMARK, older])] == [["300", "40.0"], ["400", "40.0"]]
    assert [row[-2] for row in shown("cost-roofline", [BENCHMARK, older])] == ["100", "250"]


def test_each_machine_has_its_own_roofline() -> None:
    gpu = BENCHMARK | {"machine": BENCHMARK["machine"] | {"platform": "gpu", "device": "GPU Y", "kernels": False}}
    wide = BENCHMARK | {"machine": BENCHMARK["machine"] | {"instructions": "AVX-512"}}
    rates = shown("cost-rates", [BENCHMARK, gpu, wide])
    assert [row[0] for row in rates[::2]] == [
        "2 cores of CPU X with AVX, CPU kernels built",
        "GPU Y",
        "2 cores of CPU X with AVX-512, CPU kernels built",
    ]
    # At 10 Gbit/s and 400 Gbit/s.
    sending = [row["sending_ms"] for row in cost.measured([BENCHMARK, gpu])["chexpert"] if row["devices"] == 8]
    assert sending == pytest.approx([6.98, 6.98 / 40], rel=1e-3)


def test_without_a_step_like_the_papers_nothing_is_calculated_from_it() -> None:
    found = cost.measured([BENCHMARK | {"rows": [STEP | {"batch_size": 16, "images_per_s": 9.0}]}])
    assert (found["paper_day"], found["chexpert"]) == ([], [])


def test_memory_that_was_not_measured_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no workdir has the rate of the machine's memory"):
        cost.measured([WITHOUT_MEMORY])


def written(folder: Path, benchmark: dict) -> Path:
    """A workdir of --mode=benchmark."""
    folder.mkdir()
    (folder / "benchmark.json").write_text(json.dumps(benchmark))
    return folder


def test_the_study_reads_workdirs(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    cost.main([str(written(tmp_path / "run", BENCHMARK)), f"--output={path}"])
    result = json.loads(path.read_text())
    assert result["command"].startswith("python -m studies.cost ")
    assert result["figures"] == json.loads(json.dumps(cost.counts() | cost.measured([BENCHMARK])))


def test_a_workdir_without_a_benchmark_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no benchmark.json: give the workdirs of --mode=benchmark"):
        cost.main([str(tmp_path)])


SIDES = {
    "pneumojax": {"images_per_s": 200.0, "batch_size": 32, "way": "", "tried": {}},
    "torch": {"images_per_s": 50.0, "batch_size": 8, "way": "channels last", "tried": {}},
    "keras-jax": {"reason": "not installed"},
}
COMPARED = {
    "model": "m1", "mode": "train", "precision": "float32", "image_size": 150, "at": "own best", "sides": SIDES,
    "turns": [{}], "ratios": {"torch": {"median": 4.0, "min": 3.5, "max": 4.25}}, "waiting_cores": 0.1,
    "foreign_cores": 0.2,
}  # fmt: skip
FED = {
    "model": "m1", "batch_size": 32, "ways": {"feed-train": {"median": 1.01, "min": 1.0, "max": 1.2}}, "turns": [{}],
    "waiting_cores": 0.3, "foreign_cores": 0.1,
}  # fmt: skip
WHOLE = BENCHMARK | {
    "benchmark": {"peers": "torch,keras-jax", "seconds": 1.0, "rounds": 3},
    "rows": [
        STEP
        | {"step_s": {"median": 0.16, "p10": 0.15, "p90": 0.17}, "images_per_s": 200.0, "gflops": 300.0}
        | {"calls": 5, "compile_s": 2.0, "peak_bytes": 1e9}
    ],
    "fed": [FED],
    "compared": [COMPARED],
}


def test_speed_collects_benchmarks(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    speed.main([str(written(tmp_path / "m1", WHOLE)), f"--output={path}"])
    result = json.loads(path.read_text())
    assert result["machine"] == "2 cores of CPU X with AVX, 24 GB of memory, Linux; jax 1.0"
    [benchmark] = result["figures"]["benchmarks"]
    assert (benchmark["run"], benchmark["peers"]) == ("m1", ["torch", "keras-jax"])
    assert (benchmark["waiting_cores"], benchmark["foreign_cores"]) == (0.3, 0.2)
    assert benchmark["rows"][0]["of_product"] == 1.5

    def last(name: str) -> list[str]:
        line = tables.render(name, result["figures"]).splitlines()[-1]
        return [cell.strip() for cell in line.strip("|").split("|")]

    assert last("speed-steps") == [
        "m1", "M1", "train", "32", "150", "float32", "1", "2.0", "5", "160 (150-170)", "200", "300", "1.50", "1.00",
    ]  # fmt: skip
    assert last("speed-compared")[5:] == ["200 at 32", "", "", "", "50.0 at 8 (4.00, 3.50-4.25)", ""]
    assert last("speed-ways")[-2:] == ["channels last", ""]
    assert last("speed-fed") == ["M1", "32", "feed-train", "3", "1", "1.010 (1.000-1.200)"]


def test_speed_of_several_machines_is_a_mistake(tmp_path: Path) -> None:
    other = WHOLE | {"machine": WHOLE["machine"] | {"cpu": "CPU Z"}}
    workdirs = [written(tmp_path / "one", WHOLE), written(tmp_path / "two", other)]
    with pytest.raises(UserError, match="the workdirs are of several machines: give those of one"):
        speed.main([str(workdir) for workdir in workdirs])
