"""A run that the tests of model cards read."""

import shutil

import pytest
from card_runs import write_run
from etils import epath


@pytest.fixture(scope="session")
def card_run(tmp_path_factory) -> epath.Path:
    return write_run(tmp_path_factory.mktemp("card") / "run")


@pytest.fixture
def copied(card_run, tmp_path) -> epath.Path:
    return epath.Path(shutil.copytree(card_run, tmp_path / "run"))
