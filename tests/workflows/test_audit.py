"""`--mode=audit`: its exit status, what it writes, and which audit it does not overwrite."""

import shutil

import pytest
from etils import epath
from support import draw_folder, one_epoch, pneumojax, read_json

from pneumojax.runtime.errors import ExitStatus, UserError
from pneumojax.workflows import audit


def test_the_exit_status_says_whether_anything_was_found(chests, tmp_path):
    assert pneumojax("--mode=audit", f"--data={chests}", cwd=tmp_path).returncode == 0
    shutil.copytree(chests, tmp_path / "dirty")
    (tmp_path / "dirty/test/NORMAL/empty.png").touch()
    done = pneumojax("--mode=audit", "--data=dirty", "--workdir=work", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    findings = read_json(tmp_path / "work/audit/audit.json")["findings"]
    assert [(finding["kind"], finding["ids"]) for finding in findings] == [("unreadable", ["test/NORMAL/empty.png"])]
    assert findings[0]["short"] in done.stdout
    assert (tmp_path / "work/audit/index.html").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"dirty", "runs", "work"}, "nothing is written elsewhere"


def test_the_data_must_be_named(tmp_path):
    done = pneumojax("--mode=audit", cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("pneumojax: give --data")


def test_an_audit_of_another_source_is_not_overwritten(tmp_path):
    """Two folders have the same name: the second needs a workdir of its own."""
    draw_folder(tmp_path / "one/data", "", 3, 3)
    draw_folder(tmp_path / "two/data", "", 4, 4)
    work = epath.Path(tmp_path / "work")
    audit.audit_source(one_epoch(tmp_path / "one/data", tmp_path), work)
    with pytest.raises(UserError, match=r"audit.json is .*one/data: choose another --workdir"):
        audit.audit_source(one_epoch(tmp_path / "two/data", tmp_path), work)
    assert read_json(work / "audit/audit.json")["location"] == str(tmp_path / "one/data")


def test_a_config_given_to_audit_is_not_changed(tmp_path, monkeypatch):
    draw_folder(tmp_path / "data", "", 3, 3)
    monkeypatch.chdir(tmp_path)
    config = one_epoch("data", tmp_path)
    before = config.to_dict()
    assert audit.audit_source(config, epath.Path(tmp_path / "work")) == ExitStatus.DONE
    assert config.to_dict() == before
