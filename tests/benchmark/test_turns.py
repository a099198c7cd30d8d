"""The processes that measure answer requests, wait without computing, and take turns."""

import io
import json
import os
import signal
import time
from contextlib import ExitStack

import pytest

from pneumojax.benchmark import worker
from pneumojax.benchmark.compare import ratios, side_by_side, take_turns
from pneumojax.benchmark.plan import plan
from pneumojax.benchmark.tasks import OURS, SIDES, Task
from pneumojax.benchmark.worker_client import Unmeasured, started
from pneumojax.runtime import config as configs
from pneumojax.runtime.host import processor_seconds

TASK = Task("m1", "infer", 2, 16, "float32", 1)
PREPARE = {"prepare": TASK._asdict(), "config": {}, "trial": 0.01}


def answers(ways, *requests) -> list[dict]:
    out = io.StringIO()
    worker.serve(lambda task, config: ways, map(json.dumps, requests), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def sleeping(seconds, built):
    def build():
        built.append(seconds)
        return worker.ReadyStep(lambda: time.sleep(seconds), {"slept": seconds})

    return build


def test_the_fastest_way_is_kept_and_a_failed_one_has_a_reason():
    def broken():
        raise ValueError("no compiler\nand more")

    built = []
    ways = {"slow": sleeping(0.05, built), "broken": broken, "fast": sleeping(0.001, built)}
    prepared, measured = answers(ways, PREPARE, {"measure": 0.02, "least": 3})
    assert prepared["way"] == "fast"
    assert prepared["facts"] == {"slept": 0.001}
    assert prepared["tried"]["broken"] == "ValueError: no compiler"
    assert 0.001 <= prepared["tried"]["fast"] < prepared["tried"]["slow"]
    assert built == [0.05, 0.001]
    assert len(measured["steps"]) >= 3
    assert min(measured["steps"]) >= 0.001
    assert measured["peak_bytes"] > 1e6


def test_overlapping_calls_have_finished_at_the_end_of_a_turn():
    """Each call waits for the one before it. The first is not timed, and the last would run on in another's turn."""
    events = []
    ready = worker.ReadyStep(lambda: events.append("run"), {}, steps=32, settle=lambda: events.append("settle"))
    for _ in range(2):
        assert len(worker.repeat(ready, 0, 4)) == 4
        assert events == ["run"] * 6 + ["settle"]
        events.clear()


def test_a_failed_task_is_answered_by_an_error_and_the_next_is_served():
    def broken():
        raise MemoryError("too large")

    assert answers({"a": broken}, PREPARE, PREPARE) == [{"error": "MemoryError: too large"}] * 2
    [answer] = answers({"a": broken, "b": broken}, PREPARE)
    assert answer["error"] == "RuntimeError: a: MemoryError: too large; b: MemoryError: too large"


def test_measuring_before_preparing_is_answered_by_an_error():
    [answer] = answers({}, {"measure": 0.01, "least": 1})
    assert answer["error"] == "RuntimeError: no step is ready: send a prepare request first"


def test_ratios_compare_time_per_image_turn_by_turn():
    """By hand: with 4 and 2 images per step, the times per image are 0.5 and 1 s, 0.25 and 2 s, 0.5 and 1 s."""
    turns = [{OURS: 2.0, "torch": 2.0}, {OURS: 1.0, "torch": 4.0}, {OURS: 2.0, "torch": 2.0}]
    assert ratios(turns, {OURS: 4, "torch": 2}) == {"torch": {"median": 2.0, "min": 2.0, "max": 8.0}}
    assert ratios(turns, {"torch": 2}) == {}


@pytest.fixture(scope="module")
def pair():
    """Two real processes that evaluate M1 at 16 px."""
    with ExitStack() as stack:
        workers = {side: stack.enter_context(started(SIDES[OURS])) for side in (OURS, "other")}
        for each in workers.values():
            assert each.prepare(TASK, configs.load("m1").to_dict(), 0.01)["facts"]["compile_s"] > 0
        yield workers


def test_processes_take_turns_in_alternating_order(pair):
    turns, cores, failed = take_turns(pair, rounds=3, seconds=0.01)
    assert [list(turn) for turn in turns] == [[OURS, "other"], ["other", OURS], [OURS, "other"]]
    assert all(seconds > 0 for turn in turns for seconds in turn.values())
    assert set(cores) == {"waiting_cores", "foreign_cores"}
    assert not failed


def test_a_side_on_another_platform_has_no_figure(pair):
    """For example, PyTorch without CUDA compared with pneumojax on a GPU."""
    config = configs.load("m1")
    wanted = plan(config)._replace(rounds=1, seconds=0.01)
    row = side_by_side(pair, dict.fromkeys(pair, TASK), wanted, config.to_dict(), platform="gpu")
    assert [side["reason"] for side in row["sides"].values()] == ["it computes on a cpu, pneumojax on a gpu"] * 2
    assert row["ratios"] == {}


def test_the_others_continue_when_one_process_is_killed(pair):
    with started(SIDES[OURS]) as victim:
        victim.prepare(TASK, configs.load("m1").to_dict(), 0.01)
        os.kill(victim.pid, signal.SIGKILL)
        turns, _, failed = take_turns({"victim": victim, **pair}, rounds=2, seconds=0.01)
    assert failed == {"victim": "the process was killed by signal 9"}
    assert [list(turn) for turn in turns] == [[OURS, "other"], ["other", OURS]]


def test_a_waiting_process_does_not_compute(pair):
    """Otherwise it would slow down the process whose turn it is."""
    pair[OURS].measure(0.01)
    before = processor_seconds(pair[OURS].pid)
    time.sleep(1)
    assert processor_seconds(pair[OURS].pid) - before < 0.3


def test_a_process_survives_a_task_for_more_devices_than_it_has(pair):
    config = configs.load("m1").to_dict()
    with pytest.raises(Unmeasured, match="the task needs 3 devices, and JAX finds 1"):
        pair["other"].prepare(TASK._replace(devices=3), config, 0.01)
    pair["other"].prepare(TASK, config, 0.01)
    assert pair["other"].measure(0.01)["steps"]


def test_a_process_that_exits_gives_its_last_error_as_the_reason(monkeypatch, tmp_path):
    (tmp_path / "jax.py").write_text("raise ImportError('there is no JAX here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with started(SIDES[OURS]) as each, pytest.raises(Unmeasured, match="status 1: ImportError: there is no JAX here"):
        each.prepare(TASK, {}, 0.01)
