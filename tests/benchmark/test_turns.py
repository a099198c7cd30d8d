"""The processes that measure: what they answer, that they wait quietly, and that they take turns."""

import io
import json
import os
import signal
import time
from contextlib import ExitStack

import pytest

from pneumojax import config as configs
from pneumojax.benchmark import worker
from pneumojax.benchmark.compare import _row, ratios, take_turns
from pneumojax.benchmark.plan import plan
from pneumojax.benchmark.processes import Unmeasured, started
from pneumojax.benchmark.task import OURS, Task
from pneumojax.machine import processor_seconds

TASK = Task("m1", "infer", 2, 16, "float32", 1)


def answers(ways, *requests) -> list[dict]:
    out = io.StringIO()
    worker.serve(lambda task, config: ways, map(json.dumps, requests), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def sleeping(seconds, built):
    def build():
        built.append(seconds)
        return worker.Prepared(lambda: time.sleep(seconds), {"slept": seconds})

    return build


def test_the_fastest_way_is_taken_and_one_that_fails_is_told():
    def broken():
        raise ValueError("no compiler\nand more")

    built = []
    ways = {"slow": sleeping(0.05, built), "broken": broken, "fast": sleeping(0.001, built)}
    request = {"prepare": TASK._asdict(), "config": {}, "trial": 0.01}
    prepared, measured = answers(ways, request, {"measure": 0.02, "least": 3})
    assert prepared["way"] == "fast"
    assert prepared["facts"] == {"slept": 0.001}
    assert prepared["tried"]["broken"] == "ValueError: no compiler"
    assert 0.001 <= prepared["tried"]["fast"] < prepared["tried"]["slow"]
    assert built == [0.05, 0.001]
    assert len(measured["steps"]) >= 3
    assert min(measured["steps"]) >= 0.001
    assert measured["peak_bytes"] > 1e6


def test_a_step_that_overlaps_the_next_has_ended_before_the_next_side_begins():
    """Each call waits for the one before, which was begun in the same turn, and the first to end is not counted."""
    told = []
    pipelined = worker.Prepared(lambda: told.append("run"), {}, steps=32, settle=lambda: told.append("settle"))
    for _ in range(2):
        assert len(worker.repeat(pipelined, 0, 4)) == 4
        assert told == ["run"] * 6 + ["settle"]
        told.clear()


def test_a_task_that_no_way_can_do_is_an_error_and_the_next_is_done():
    def broken():
        raise MemoryError("too large")

    request = {"prepare": TASK._asdict(), "config": {}, "trial": 0.01}
    assert answers({"a": broken}, request, request) == [{"error": "MemoryError: too large"}] * 2
    [told] = answers({"a": broken, "b": broken}, request)
    assert told["error"] == "RuntimeError: a: MemoryError: too large; b: MemoryError: too large"


def test_ratios_are_of_one_turn_and_of_an_image():
    """By hand: 4 images against 2 in a step, so 0.5 s and 1 s an image, then 0.25 s and 2 s."""
    turns = [{OURS: 2.0, "torch": 2.0}, {OURS: 1.0, "torch": 4.0}, {OURS: 2.0, "torch": 2.0}]
    assert ratios(turns, {OURS: 4, "torch": 2}) == {"torch": {"median": 2.0, "min": 2.0, "max": 8.0}}
    assert ratios(turns, {"torch": 2}) == {}


@pytest.fixture(scope="module")
def pair():
    """Two real processes that evaluate M1 at 16 px."""
    with ExitStack() as stack:
        workers = {side: stack.enter_context(started(OURS)) for side in (OURS, "other")}
        for each in workers.values():
            assert each.prepare(TASK, configs.load("m1").to_dict(), 0.01)["facts"]["compile_s"] > 0
        yield workers


def test_they_take_turns_and_the_order_turns_round(pair):
    turns, cores, failed = take_turns(pair, rounds=3, seconds=0.01)
    assert [list(turn) for turn in turns] == [[OURS, "other"], ["other", OURS], [OURS, "other"]]
    assert all(seconds > 0 for turn in turns for seconds in turn.values())
    assert set(cores) == {"waiting_cores", "foreign_cores"}
    assert not failed


def test_one_that_computes_elsewhere_is_told_and_has_no_figure(pair):
    """PyTorch without CUDA, say, beside ours on a GPU."""
    given = plan(configs.load("m1"))._replace(rounds=1, seconds=0.01)
    row = _row(pair, dict.fromkeys(pair, TASK), given, configs.load("m1").to_dict(), platform="gpu")
    assert [side["reason"] for side in row["sides"].values()] == ["it computes on a cpu, ours on a gpu"] * 2
    assert row["ratios"] == {}


def test_one_that_is_killed_is_told_and_the_others_go_on(pair):
    with started(OURS) as victim:
        victim.prepare(TASK, configs.load("m1").to_dict(), 0.01)
        os.kill(victim.pid, signal.SIGKILL)
        turns, _, failed = take_turns({"victim": victim, **pair}, rounds=2, seconds=0.01)
    assert failed == {"victim": "the process was ended by signal 9"}
    assert [list(turn) for turn in turns] == [[OURS, "other"], ["other", OURS]]


def test_one_that_waits_does_not_spin(pair):
    pair[OURS].measure(0.01)
    before = processor_seconds(pair[OURS].pid)
    time.sleep(1)
    assert processor_seconds(pair[OURS].pid) - before < 0.3


def test_more_devices_than_there_are_is_a_reason_and_the_process_lives_on(pair):
    given = configs.load("m1").to_dict()
    with pytest.raises(Unmeasured, match="there are 1 devices, not 3"):
        pair["other"].prepare(TASK._replace(devices=3), given, 0.01)
    pair["other"].prepare(TASK, given, 0.01)
    assert pair["other"].measure(0.01)["steps"]


def test_a_process_that_dies_leaves_its_last_words(monkeypatch, tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('there is no JAX here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with started(OURS) as each, pytest.raises(Unmeasured, match="status 1: ImportError: there is no JAX here"):
        each.prepare(TASK, {}, 0.01)
