"""metrics.jsonl: what a resumed run keeps of it."""

import json

from etils import epath

from pneumojax import log


def write(workdir, first_step, steps):
    with log.metrics_lines(workdir, first_step) as write_line:
        for step in steps:
            write_line(step=step, epoch=step // 10, split="val", values={"bce": step / 7, "auc": None})


def test_lines_after_the_checkpoint_are_dropped_and_written_anew(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, 0, [10, 20, 30])
    write(workdir, 20, [30, 40])
    told = [json.loads(line) for line in (workdir / log.FILE).read_text().splitlines()]
    assert [line["step"] for line in told] == [10, 20, 30, 40]
    assert told[0] == {"step": 10, "epoch": 1, "split": "val", "bce": 10 / 7, "auc": None}


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, 0, [10])
    with (workdir / log.FILE).open("a") as file:
        file.write('{"step": 20, "epo')
    assert list(log.read(workdir)["val"]) == [1]
    write(workdir, 10, [20])
    assert list(log.read(workdir)["val"]) == [1, 2]
