"""`--mode=audit`: its exit status, what it writes, and which audit it does not overwrite."""

import shutil

import pytest
from etils import epath
from support import draw_folder, one_epoch, pneumojax, read_json

from pneumojax.runtime.errors import ExitStatus, UserError
from pneumojax.workflows import audit, prepare


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


def test_films_without_labels_are_audited_and_not_trained_on(tmp_path, capsys):
    """Copies and broken files need no labels to be found."""
    draw_folder(tmp_path / "films", "", 3, 3)
    for folder in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "films" / folder).rename(tmp_path / "films" / folder[:1])
    shutil.copy(tmp_path / "films/N/chest 000.png", tmp_path / "films/copy.png")
    config = one_epoch(tmp_path / "films", tmp_path)
    assert audit.audit_source(config, epath.Path(tmp_path / "work")) == ExitStatus.FINDINGS
    audited = read_json(tmp_path / "work/audit/audit.json")
    assert audited["splits"] == {"all": {"n": 7, "normal": 0, "pneumonia": 0, "majority_accuracy": None}}
    assert [finding["kind"] for finding in audited["findings"]] == ["identical_within_split"]
    assert "No image has a label." in capsys.readouterr().out
    with pytest.raises(UserError, match="holds no images in folders named normal and pneumonia"):
        prepare.open_own(config)
