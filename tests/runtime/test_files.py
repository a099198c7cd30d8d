"""Files are written whole or not at all, and a lock keeps other processes out for as long as its holder lives."""

import errno
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath
from support import ROOT

from pneumojax.runtime import files
from pneumojax.runtime import workdir as workdirs
from pneumojax.runtime.errors import UserError


def test_a_file_is_written_whole_into_a_new_folder(tmp_path):
    path = epath.Path(tmp_path) / "new" / "folder" / "file.txt"
    files.write_whole(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_reader_finds_the_old_content_until_the_new_is_complete(tmp_path):
    path = epath.Path(tmp_path) / "file.txt"
    path.write_text("old")
    with files.becoming(path) as unfinished:
        unfinished.write_text("ne")
        assert path.read_text() == "old"
        assert workdirs.names_in(epath.Path(tmp_path)) == {"file.txt"}, "the unfinished file is not listed"
        unfinished.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = epath.Path(tmp_path) / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), files.becoming(path) as unfinished:
        unfinished.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_two_processes_that_write_one_file_do_not_share_the_unfinished_one(tmp_path):
    path = epath.Path(tmp_path) / "file.txt"
    program = (
        "import sys; from etils import epath; from pneumojax.runtime import files\n"
        "with files.becoming(epath.Path(sys.argv[1])) as unfinished: unfinished.write_text('theirs')"
    )
    with files.becoming(path) as unfinished:
        unfinished.write_text("own")
        subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, check=True)
        assert path.read_text() == "theirs"
    assert path.read_text() == "own"


def test_text_is_added_to_the_end_of_a_file(tmp_path):
    path = epath.Path(tmp_path) / "lines.txt"
    files.append(path, "first\n")
    files.append(path, "second\n")
    assert path.read_text() == "first\nsecond\n"


def test_arrays_are_read_back_equal(tmp_path):
    path = epath.Path(tmp_path) / "arrays.npz"
    files.write_arrays(path, {"a": np.arange(6).reshape(2, 3), "b": np.array(["x", "yz"])})
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["a"], [[0, 1, 2], [3, 4, 5]])
        assert arrays["b"].tolist() == ["x", "yz"]


@pytest.mark.parametrize(
    ("path", "local"), [("work/file", True), ("/work", True), ("gs://bucket/work", False), ("s3://bucket", False)]
)
def test_a_bucket_is_not_local(path, local):
    assert files.is_local(epath.Path(path)) is local


def test_a_full_disk_is_recognised_in_another_library_error():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert files.no_room(full) == "No space left on device"
    assert files.no_room(RuntimeError(f"while saving: {full}")) == "No space left on device"
    assert files.no_room(OSError(errno.EACCES, os.strerror(errno.EACCES))) == ""


class Taken(Exception):
    """Raised instead of waiting for a lock."""


def refuse():
    raise Taken


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock at `tmp_path`/.lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


HOLDER = """
import sys
from etils import epath
from pneumojax.runtime import files
with files.locked(epath.Path(sys.argv[1]), lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_a_second_process_out(tmp_path, holder):
    with pytest.raises(Taken), files.locked(epath.Path(tmp_path) / ".lock", refuse):
        pytest.fail("both processes hold the lock")


def test_a_lock_ends_with_a_killed_process(tmp_path, holder):
    holder.kill()
    holder.wait()
    with files.locked(epath.Path(tmp_path) / ".lock", refuse):
        pass


def test_a_process_may_wait_for_a_lock(tmp_path, holder):
    """It learns once that the lock is taken, and gets it when the other process leaves."""
    calls = []

    def let_go():
        calls.append(time.monotonic())
        holder.stdin.close()  # the holder then leaves its block

    with files.locked(epath.Path(tmp_path) / ".lock", let_go):
        assert holder.wait(60) == 0
    assert len(calls) == 1


def test_a_lock_is_released_after_an_error(tmp_path):
    path = epath.Path(tmp_path) / "new" / ".lock"
    with pytest.raises(ValueError), files.locked(path, refuse):
        raise ValueError
    with files.locked(path, refuse):
        pass


def test_nothing_is_written_through_a_link(tmp_path):
    """Not through one in place of the file, nor of the temporary file, nor of a lock."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("a.txt", f"a.txt.{os.getpid()}{workdirs.UNFINISHED}", "lines.txt", ".lock"):
        (tmp_path / name).symlink_to(precious)
    files.write_whole(epath.Path(tmp_path / "a.txt"), "new")
    with pytest.raises(OSError):
        files.append(epath.Path(tmp_path / "lines.txt"), "new")
    with pytest.raises(UserError, match="is a link: remove it"), files.locked(epath.Path(tmp_path / ".lock"), refuse):
        pass
    assert (tmp_path / "a.txt").read_text() == "new"
    assert precious.read_text() == "precious"


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Otherwise a power failure would leave an empty file of that name."""
    synced = []

    def note(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "a.txt").exists()))

    monkeypatch.setattr(os, "fsync", note)
    files.write_whole(epath.Path(tmp_path / "a.txt"), "text")
    assert [exists for _, exists in synced] == [False, True]
    assert synced[0][0].endswith(workdirs.UNFINISHED) and synced[1][0] == str(tmp_path)


def test_the_first_to_claim_a_file_writes_it(tmp_path):
    path = epath.Path(tmp_path / "new/claim")
    assert files.claim(path, "first") == "first"
    assert files.claim(path, "second") == "first"
    assert os.listdir(path.parent) == ["claim"]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaN", "-Infinity", '"\\ud800"', "1" * 5000, "\udc00"])
def test_what_is_no_json_raises_one_kind_of_error(tmp_path, text):
    path = epath.Path(tmp_path / "a.json")
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError):
        files.read_json(path)


def test_a_home_that_nobody_knows_is_reported(monkeypatch):
    """A folder named ~ would be made in the current one."""
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expanded("~/x") == epath.Path("/home/me/x")
    assert files.expanded("x/~") == epath.Path("x/~")
    with pytest.raises(UserError, match="~nobody-of-this-name/x: no home folder is known: set HOME"):
        files.expanded("~nobody-of-this-name/x")
