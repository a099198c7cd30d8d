"""The tables for fixed figures; every number that they show is worked out by hand."""

from pneumojax.benchmark import benchmark_tables

STEP = {"model": "m1", "batch_size": 32, "image_size": 150, "precision": "float32", "devices": 1}
FIGURES = {"calls": 9, "step_s": {"median": 0.8, "p10": 0.75, "p90": 1.25}, "images_per_s": 40.0, "peak_bytes": 2.5e9}
BENCHMARK = {
    "command": "python -m pneumojax.main --mode=benchmark",
    "machine": {
        "cpu": "CPU X", "instructions": "AVX", "cores": 2, "memory_bytes": 24e9, "system": "Linux",
        "platform": "cpu", "kernels": True, "device": "cpu",
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
    },
    "benchmark": {"seconds": 3.0, "rounds": 5},
    "matrix_product": {"size": 4096, "gflops": {"float32": 200.0, "bfloat16": 400.0}},
    "rows": [
        STEP | FIGURES | {"mode": "train", "compile_s": 4.26, "gflops": 50.0},
        STEP | {"mode": "infer", "reason": "no memory"},
        STEP | FIGURES | {"mode": "feed", "images_per_s": 5e3, "step_s": {"median": 0.0064, "p10": 0.006, "p90": 0.1}},
    ],
    "fed": [
        {
            "model": "m1", "batch_size": 32, "waiting_cores": 0.01, "foreign_cores": 0.02,
            "ways": {
                "resident-train": {"median": 1.0125, "min": 0.995, "max": 1.02},
                "feed-train": {"reason": "no TFDS"},
            },
        }
    ],
    "compared": [
        {
            "model": "m1", "mode": "train", "precision": "float32", "image_size": 150, "at": "own best",
            "sides": {
                "pneumojax": {"way": "", "batch_size": 32, "images_per_s": 40.0},
                "torch": {"way": "channels last", "batch_size": 64, "images_per_s": 20.0},
                "keras-jax": {"reason": "no such library"},
            },
            "ratios": {"torch": {"median": 2.0, "min": 1.75, "max": 2.125}},
            "waiting_cores": 0.012, "foreign_cores": 0.3,
        }
    ],
}  # fmt: skip


def rows(text) -> list[list[str]]:
    lines = (line.strip("|").split("|") for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in line] for line in lines]


def test_the_section_has_machine_command_and_tables():
    text = benchmark_tables.section(BENCHMARK)
    assert (
        "Machine: 2 cores of CPU X with AVX, 24 GB of memory, Linux; python 3.11.7, jax 0.10.2. CPU kernels: built."
        " Product of two 4096 x 4096 matrices: 200 GFLOP/s in float32, 400 GFLOP/s in bfloat16."
    ) in text
    assert "```\npython -m pneumojax.main --mode=benchmark\n```" in text
    assert rows(text) == [
        ["model", "mode", "batch", "px", "precision", "devices", "compile, s", "calls", "step, ms (p10-p90)",
         "images/s", "GFLOP/s", "of matrix product", "peak memory, GB"],
        ["M1", "train", "32", "150", "float32", "1", "4.3", "9", "800 (750-1250)", "40.0", "50", "0.25", "2.50"],
        ["", "feed", "32", "150", "", "1", "", "9", "6.4 (6.0-100)", "5000", "", "", "2.50"],
        ["model", "batch", "feed-train", "resident-train"],
        ["M1", "32", "no TFDS", "1.012 (0.995-1.020)"],
        ["model", "mode", "precision", "at", "pneumojax", "torch", "keras-jax"],
        ["M1", "train", "float32", "own best", "40.0 at 32", "20.0 at 64 (2.00, 1.75-2.12)", ""],
    ]  # fmt: skip
    assert "- M1 infer, batch 32, 150 px, float32, 1 device: not measured: no memory" in text
    assert text.count("The processes take turns of 3 s, in 5 rounds.") == 2
    assert "the waiting sides used at most 0.01 cores, and other processes at most 0.02 cores" in text
    assert "the waiting sides used at most 0.01 cores, and other processes at most 0.30 cores" in text
    assert "torch 20.0 images/s (channels last); keras-jax not measured: no such library" in text


def test_the_matrix_product_counts_for_each_real_device():
    """A CPU's devices are simulated on the same cores, so they count once."""
    row = STEP | {"precision": "bfloat16", "devices": 8}
    assert benchmark_tables.product_rate(BENCHMARK, STEP) == 200
    assert benchmark_tables.product_rate(BENCHMARK, row) == 400
    assert benchmark_tables.product_rate(BENCHMARK | {"machine": {"platform": "gpu"}}, row) == 3200


def test_without_figures_a_table_is_left_out():
    assert "Images per second" not in benchmark_tables.section(BENCHMARK | {"compared": []})
    assert "resident" not in benchmark_tables.section(BENCHMARK | {"fed": []})


def test_no_share_of_the_product_is_shown_where_the_machine_was_busy():
    """Product and step were slowed each by another share."""
    busy = BENCHMARK | {"busy_cores": 1.26}
    text = benchmark_tables.section(busy)
    assert "Other processes used 1.3 cores: these figures are too low. Measure again on a quiet machine." in text
    _, train, *_ = rows(text)
    assert train[-3:] == ["50", "", "2.50"]
    assert benchmark_tables.busy_warning(BENCHMARK | {"busy_cores": 0.1}) == ""
