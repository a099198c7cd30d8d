"""metrics.jsonl and TensorBoard when a run is resumed; the terminal when its reader has gone."""

import contextlib
import io
import json
import subprocess
import sys

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog

from pneumojax.runtime import run_log
from pneumojax.runtime import workdir as workdirs


def write(workdir, first_step, steps):
    with run_log.metrics_lines(workdir, first_step) as write_line:
        for step in steps:
            write_line(step=step, epoch=step // 10, split="val", values={"bce": step / 7, "auc": None})


def test_lines_after_the_checkpoint_are_dropped_and_written_again(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, 0, [10, 20, 30])
    write(workdir, 20, [30, 40])
    lines = [json.loads(line) for line in (workdir / workdirs.METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
    assert lines[0] == {"step": 10, "epoch": 1, "split": "val", "bce": 10 / 7, "auc": None}


def test_tensorboard_shows_the_metrics_lines(tmp_path):
    """A resumed run declares void what a killed process wrote about later steps."""
    workdir = epath.Path(tmp_path)
    write(workdir, 0, [10, 20])
    (first,) = (workdir / "tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.1"))  # a name has the second when it was created
    write(workdir, 10, [20])
    events = [
        [Event.FromString(record) for record in records(path)] for path in sorted((workdir / "tensorboard").iterdir())
    ]
    shown = [[(e.step, v.tag, v.simple_value) for e in file for v in e.summary.value] for file in events]
    assert shown == [[(step, "val/bce", pytest.approx(step / 7)) for step in steps] for steps in ((10, 20), (20,))]
    assert [e.step for e in events[1] if e.session_log.status == SessionLog.START] == [11]


def records(path):
    """Yield the records of an event file: a length (8 bytes), its checksum (4), the record, its checksum (4)."""
    content = path.read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12 : 12 + length]
        content = content[16 + length :]


def test_a_run_continues_when_nobody_reads_what_it_prints():
    """Ctrl-C ends `tee` in a pipeline too, and the run must still be saved."""
    program = (
        "import sys; from pneumojax.runtime import run_log; sys.stdin.read();"
        "run_log.console.print('first'); run_log.console.print('second'); print('continues', file=sys.stderr)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, stderr=-1, text=True)
    process.stdout.close()
    process.stdin.close()
    assert (process.stderr.read(), process.wait()) == ("continues\n", 0)
    process.stderr.close()


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path):
    workdir = epath.Path(tmp_path)
    write(workdir, 0, [10])
    with (workdir / workdirs.METRICS).open("a") as file:
        file.write('{"step": 20, "epo')
    assert list(run_log.read(workdir)["val"]) == [1]
    write(workdir, 10, [20])
    assert list(run_log.read(workdir)["val"]) == [1, 2]


def test_watching_images_being_read_changes_none_and_prints_their_number(capsys):
    """On the standard output of the start: what reads them may redirect it meanwhile."""
    watch = run_log.reading_watch()
    with contextlib.redirect_stdout(io.StringIO()) as redirected:
        assert list(watch(iter(["first", "second", "third"]), 3)) == ["first", "second", "third"]
    assert capsys.readouterr().out.startswith("3 images read in ")
    assert redirected.getvalue() == ""


def test_a_bar_is_silent_where_there_is_no_terminal(capsys):
    with run_log.images_bar("predict", None) as advance:
        advance(5)
    assert capsys.readouterr().out == ""
