"""metrics.jsonl: what a resumed run keeps of it."""

import json
import subprocess
import sys

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog

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


def test_tensorboard_shows_what_the_lines_tell(tmp_path):
    """Scalars of the steps gone on from; those that a killed process wrote of later ones are declared void."""
    workdir = epath.Path(tmp_path)
    write(workdir, 0, [10, 20])
    (first,) = (workdir / "tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.1"))  # named by the second it was begun in
    write(workdir, 10, [20])
    events = [
        [Event.FromString(record) for record in records(path)] for path in sorted((workdir / "tensorboard").iterdir())
    ]
    shown = [[(e.step, v.tag, v.simple_value) for e in file for v in e.summary.value] for file in events]
    assert shown == [[(step, "val/bce", pytest.approx(step / 7)) for step in steps] for steps in ((10, 20), (20,))]
    assert [e.step for e in events[1] if e.session_log.status == SessionLog.START] == [11]


def records(path):
    """Of a file of events: each has a length of 8 bytes, whose checksum of 4 follows, and one of its own behind it."""
    content = path.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12 : 12 + length]
        content = content[16 + length :]


def test_a_reader_that_has_gone_stops_no_run():
    """As `tee` goes when Ctrl-C ends the whole pipeline: what is under way has yet to be saved."""
    program = (
        "import sys; from pneumojax import log; sys.stdin.read();"
        "log.console.print('told'); log.console.print('more'); print('goes on', file=sys.stderr)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, stderr=-1, text=True)
    process.stdout.close()
    process.stdin.close()
    assert (process.stderr.read(), process.wait()) == ("goes on\n", 0)
    process.stderr.close()


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, 0, [10])
    with (workdir / log.FILE).open("a") as file:
        file.write('{"step": 20, "epo')
    assert list(log.read(workdir)["val"]) == [1]
    write(workdir, 10, [20])
    assert list(log.read(workdir)["val"]) == [1, 2]
