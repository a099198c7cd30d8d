"""A folder appears whole, replaces another whole, or not at all."""

import os
import subprocess
import sys

import pytest
from etils import epath
from support import ROOT

from pneumojax.runtime.errors import UserError
from pneumojax.runtime.folders import becoming_folder, refuse_unwritable, take_place


@pytest.fixture
def place(tmp_path):
    return epath.Path(tmp_path / "place")


def write(place, **texts):
    with becoming_folder(place) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_at_the_end(place):
    with becoming_folder(place) as folder:
        (folder / "sub").mkdir()
        (folder / "sub/a").write_text("1")
        assert not place.exists()
    assert (place / "sub/a").read_text() == "1"
    assert names(place.parent) == ["place"]


def test_it_replaces_the_old_one(place):
    write(place, a="1", b="1")
    write(place, a="2")
    assert (names(place), (place / "a").read_text(), names(place.parent)) == (["a"], "2", ["place"])


def test_an_error_leaves_the_old_one(place):
    write(place, a="1")
    with pytest.raises(RuntimeError), becoming_folder(place) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (names(place), (place / "a").read_text(), names(place.parent)) == (["a"], "1", ["place"])


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_folder_takes_anothers_place_with_and_without_the_system_call(tmp_path, can_swap):
    new, old = epath.Path(tmp_path / "new"), epath.Path(tmp_path / "old")
    for number, folder in enumerate((new, old)):
        folder.mkdir()
        (folder / "a").write_text(str(number))
    take_place(new, old, can_swap)
    assert (old / "a").read_text() == "0"
    assert names(epath.Path(tmp_path)) in (["new", "old"], ["old"])


def test_what_a_killed_process_left_is_removed(place):
    left = place.with_name("place.unfinished")
    (left / "sub").mkdir(parents=True)
    (left / "sub/half").touch()
    write(place, a="1")
    assert (names(place), names(place.parent)) == (["a"], ["place"])


def test_two_processes_do_not_write_the_same_folder(place):
    """The second is refused while the first writes, and its files stay."""
    program = (
        "import sys\nfrom etils import epath\nfrom pneumojax.runtime.folders import becoming_folder\n"
        "with becoming_folder(epath.Path(sys.argv[1])): pass"
    )
    with becoming_folder(place) as folder:
        (folder / "a").write_text("1")
        done = subprocess.run(
            [sys.executable, "-c", program, place], env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert "another process is writing" in done.stderr
    assert names(place) == ["a"]


def test_a_link_in_the_way_is_not_followed(place):
    aim = place.parent / "precious"
    aim.mkdir()
    (aim / "a").touch()
    os.symlink(aim, place.with_name("place.unfinished"))
    with pytest.raises(UserError, match="is a link: remove it"):
        write(place, b="1")
    assert names(aim) == ["a"]


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is no writable folder: go elsewhere"):
        refuse_unwritable(epath.Path(tmp_path / "file/a/b"), "go elsewhere")
    refuse_unwritable(epath.Path(tmp_path / "new/a/b"), "go elsewhere")
