"""The cost model from fixed figures, every shown number worked out by hand."""

import json
import subprocess
import sys

import pytest

from pneumojax.benchmark import cost, flops, page, traffic
from pneumojax.benchmark.task import INFER, TRAIN
from pneumojax.errors import UserError

STEP = {"model": "m1", "mode": "train", "batch_size": 32, "image_size": 150, "precision": "float32", "devices": 1}
BENCHMARK = {
    "machine": {
        "cpu": "CPU X", "instructions": "AVX", "cores": 2, "memory_bytes": 24e9, "platform": "cpu", "device": "cpu",
        "kernels": True,
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


def rows(text, name) -> list[list[str]]:
    """The table's rows in the paragraph after the one that begins with `name`."""
    paragraphs = text.split("\n\n")
    [at] = [number for number, paragraph in enumerate(paragraphs) if paragraph.startswith(name)]
    lines = [line.strip("|").split("|") for line in paragraphs[at + 1].splitlines()]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_the_floor_by_hand():
    """M3 at 8 px: three times the forward pass at 1 GFLOP/s; an image's bytes, and half of a step's, at 1 MB/s."""
    convolutions = 2 * 9 * (64 * 8**2 + 64 * 128 * 4**2 + 128 * 256 * 2**2)
    operations = 3 * (convolutions + 2 * 256 * 128 + 2 * 128)
    moved = traffic.image_bytes("m3", 8, train=True) + traffic.step_bytes("m3", 8, train=True) / 2
    found = cost.floor("m3", TRAIN, 8, 2, cost.Rates(1e9, 1e6))
    assert found == pytest.approx((operations / 1e9, moved / 1e6))
    assert found.bound == "bytes"
    assert found.images_per_s == pytest.approx(1e6 / moved)
    forward = cost.floor("m3", INFER, 8, 1, cost.Rates(1e9, 1e12))
    assert forward.compute == pytest.approx(operations / 3 / 1e9)
    assert forward.bound == "FLOPs"


def test_chexpert_on_eight_devices_by_hand():
    """876 batches of 256 are in 224,316 images; 7/4 of 4 x 1,246,401 bytes take 6.98 ms at 1.25 GB/s."""
    found = cost.scaled("m1", 0.1, 8, 1.25e9)
    assert found.steps == 87_600
    assert found.communication == pytest.approx(7 * 1_246_401 / 1.25e9)
    assert found.hours == pytest.approx(87_600 * 0.1069798 / 3600, rel=1e-5)
    assert found.efficiency == pytest.approx(0.1 / 0.1069798, rel=1e-5)


def test_what_is_counted():
    text = cost.section([BENCHMARK])
    m1, m2, m3 = rows(text, "**Counted**")
    assert (m1[:4], m2[:4], m3[:4]) == (
        ["M1", "1,246,401", "0.44", "1.32"],
        ["M2", "3,666,817", "0.65", "1.96"],
        ["M3", "12,200,961", "1.73", "5.19"],
    )
    assert m3[6] == "488"  # ten times four bytes of 12.2 million
    assert rows(text, "**Growth")[2] == ["M1", "parameters, millions", "1.25", "2.03", "3.70", "8.82"]
    assert rows(text, "Over devices")[0] == ["M1", "0.0", "8.7", "9.8", "9.9"]


def test_the_floor_on_a_gpu_is_of_published_figures():
    """M1's 1.32 GFLOP at 67 TFLOP/s: 50,684 images/s; its 17.4 MB at 3.35 TB/s would allow more."""
    text = cost.section([BENCHMARK])
    assert "989 TFLOP/s bfloat16, 494 TFLOP/s TF32, 67 TFLOP/s float32; 3.35 TB/s" in text
    assert rows(text, "**The floor on one NVIDIA")[0][-1] == f"{67e12 / flops.training('m1', 150):,.0f} (FLOPs)"


def test_what_was_measured_beside_its_floor():
    """M1's step of 1.322 GFLOP at 200 GFLOP/s takes 6.61 ms; its 15.8 MB with 50 / 32 at 40 GB/s, 0.43 ms.

    In bfloat16 there are half the bytes of images, and as many of parameters.
    """
    text = cost.section([BENCHMARK])
    assert "**The floor on 2 cores of CPU X with AVX, CPU kernels built**" in text
    assert "at 200 GFLOP/s in float32, 400 GFLOP/s in bfloat16, a copy in memory at 40.0 GB/s" in text
    narrow, wide = rows(text, "**The floor on 2 cores")
    assert wide == ["M1", "train", "32", "150", "float32", "6.61", "0.43", "151", "200", "1.32"]
    assert narrow == ["M1", "train", "32", "150", "bfloat16", "3.30", "0.24", "303", "100", "0.33"]
    # 759,900 images / 200 / 3600; 200 / 8.795.
    assert rows(text, "**The paper's day")[0] == ["M1", "float32", "200", "1.06", "23"]
    one, eight, _, most = rows(text, "**M1 on all")
    assert one == ["1", "32", "700,900", "160", "0", "31.15", "200", "1.00"]
    assert eight[:5] == ["8", "256", "87,600", "160", "6.98"]
    assert most[:3] == ["256", "8192", "2,700"]
    assert "11 all-reduces, one after another, cross 5,610 links in turn on 256 devices" in text


def test_of_several_runs_on_a_machine_the_best_counts():
    older = {name: value for name, value in BENCHMARK.items() if name != "memory_gb_s"} | {"rows": [FASTER]}
    older |= {"matrix_product": {"gflops": {"float32": 300.0}}}
    text = cost.section([BENCHMARK, older])
    assert "at 300 GFLOP/s in float32, 400 GFLOP/s in bfloat16, a copy in memory at 40.0 GB/s" in text
    assert [row[-2] for row in rows(text, "**The floor on 2 cores")] == ["100", "250"]


def test_each_machine_has_its_own_floor():
    gpu = BENCHMARK | {"machine": BENCHMARK["machine"] | {"platform": "gpu", "device": "GPU Y", "kernels": False}}
    wide = BENCHMARK | {"machine": BENCHMARK["machine"] | {"instructions": "AVX-512"}}
    text = cost.section([BENCHMARK, gpu, wide])
    assert text.index("**The floor on 2 cores of CPU X with AVX,") < text.index("at 10 Gbit/s")
    assert text.index("at 10 Gbit/s") < text.index("**The floor on GPU Y**") < text.index("at 400 Gbit/s")
    assert text.index("at 400 Gbit/s") < text.index("**The floor on 2 cores of CPU X with AVX-512,")
    assert text.count("Winograd's way") == 2


def test_without_a_step_like_the_papers_nothing_is_calculated_from_it():
    text = cost.section([BENCHMARK | {"rows": [STEP | {"batch_size": 16} | {"images_per_s": 9.0}]}])
    assert "The paper's day" not in text
    assert "M1's training step at 150 px and batch 32 was not measured here." in text


def test_memory_that_was_not_measured_is_a_mistake():
    older = {name: value for name, value in BENCHMARK.items() if name != "memory_gb_s"}
    with pytest.raises(UserError, match="how fast the machine's memory is"):
        cost.section([older])


def test_what_stands_between_the_marks_is_replaced(tmp_path):
    """Its own marks: those of the benchmark's tables stay as they are."""
    before = "<!-- benchmark:begin -->\nkept\n<!-- benchmark:end -->\n"
    path = tmp_path / "PAGE.md"
    path.write_text(f"{before}<!-- cost:begin -->\nold\n<!-- cost:end -->\nafter\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / page.JSON).write_text(json.dumps(BENCHMARK))
    command = [sys.executable, "-m", "pneumojax.benchmark.cost", "PAGE.md", "run"]
    for _ in range(2):  # the second time changes nothing
        subprocess.run(command, cwd=tmp_path, check=True, env={"PYTHONPATH": ":".join(sys.path)})
        expected = f"{before}<!-- cost:begin -->\n\n{cost.section([BENCHMARK])}\n<!-- cost:end -->\nafter\n"
        assert path.read_text() == expected
