"""The queue: what was acknowledged survives a kill, nothing is done twice, and no name identifies a patient."""

import errno
import os
import threading

import pytest
from etils import epath
from pacs_films import STUDY, instance_uid

from pneumojax.pacs.queue import Queue, opened
from pneumojax.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "queue"
    folder.mkdir(mode=0o700)
    return folder


def test_a_film_becomes_a_result_and_then_needs_nothing_more(folder):
    queue = Queue(folder, "digest")
    name = queue.name_of(instance_uid(0))
    assert not queue.is_known(name)
    queue.add(name, b"film")
    assert (queue.films(5, 0), queue.counts(), queue.is_known(name)) == ([name], (1, 0), True)
    assert queue.film(name).read_bytes() == b"film"
    queue.keep(name, [b"capture", b"report"])
    assert (queue.films(5, 0), queue.results(0), queue.counts()) == ([], [name], (0, 1))
    assert queue.documents(name) == [b"capture", b"report"]
    queue.finish(name)
    assert (queue.counts(), queue.is_known(name), queue.wait_until(0, 0)) == ((0, 0), True, True)
    assert all(path.read_bytes() == b"" for path in (folder / "done").rglob("*") if path.is_file())


def test_another_process_finds_all_that_waited_in_the_order_in_which_it_came(folder):
    first = Queue(folder, "digest")
    names = [first.name_of(instance_uid(number)) for number in range(6)]
    for number, name in enumerate(names):
        first.add(name, b"film %d" % number)
        os.utime(first.film(name), ns=(number, number))
    first.keep(names[0], [b"c", b"r"])
    first.keep(names[1], [b"c", b"r"])
    first.finish(names[1])
    first.put_aside(names[0])
    second = Queue(folder, "digest")
    assert second.films(10, 0) == names[2:]
    assert second.results(0) == [names[0]], "what the PACS did not want is offered again"
    assert second.is_known(names[1])
    assert second.name_of(instance_uid(3)) == names[3]
    assert Queue(folder, "other digest").name_of(instance_uid(3)) != names[3], "another model makes another report"


def test_what_a_killed_process_has_left_half_is_not_taken_for_whole(folder):
    queue = Queue(folder, "digest")
    name = queue.name_of(instance_uid(0))
    queue.add(name, b"film")
    (folder / "films" / "0123.77.unfinished").write_bytes(b"half a film")
    (folder / "results" / f"{name}.0").write_bytes(b"capture without a report")
    again = Queue(folder, "digest")
    assert (again.films(5, 0), again.results(0)) == ([name], [])
    assert [path.name for path in (folder / "films").iterdir()] == [name]
    # Killed between the report and the removal of the film: it is not predicted again.
    (folder / "results" / f"{name}.1").write_bytes(b"report")
    last = Queue(folder, "digest")
    assert (last.films(5, 0), last.results(0)) == ([], [name])
    assert not (folder / "films" / name).exists()


def test_names_identify_nobody(folder):
    queue = Queue(folder, "digest")
    for number in range(3):
        name = queue.name_of(instance_uid(number))
        queue.add(name, b"film")
        queue.keep(name, [b"report"])
    queue.finish(name)
    assert not [path for path in folder.rglob("*") if STUDY in str(path)]


def test_threads_may_add_the_same_film(folder):
    queue = Queue(folder, "digest")
    name = queue.name_of(instance_uid(0))
    threads = [threading.Thread(target=queue.add, args=(name, b"film" * 10_000)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert queue.film(name).read_bytes() == b"film" * 10_000
    assert queue.films(5, 0) == [name]
    assert len(list((folder / "films").iterdir())) == 1


def test_a_film_that_cannot_be_kept_is_not_taken(folder):
    queue = Queue(folder, "digest")
    name = queue.name_of(instance_uid(0))
    (folder / "films").rmdir()
    (folder / "films").write_bytes(b"")
    with pytest.raises(OSError) as error:
        queue.add(name, b"film")
    assert error.value.errno in (errno.ENOTDIR, errno.EEXIST)
    assert not queue.is_known(name)


def test_the_folder_is_this_users_alone_and_not_the_workdir(tmp_path):
    workdir = epath.Path(tmp_path / "work")
    with pytest.raises(UserError, match="give --config.pacs.queue"), opened("", workdir, "digest"):
        pass
    with pytest.raises(UserError, match="lies in the workdir"), opened(str(workdir / "queue"), workdir, "digest"):
        pass
    assert not workdir.exists()
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    with pytest.raises(UserError, match="this user alone"), opened(str(shared), workdir, "digest"):
        pass
    with opened(str(tmp_path / "queue"), workdir, "digest") as queue:
        assert (tmp_path / "queue").stat().st_mode & 0o777 == 0o700
        with pytest.raises(UserError, match="another process"), opened(str(tmp_path / "queue"), workdir, "digest"):
            pass
        assert queue.counts() == (0, 0)
