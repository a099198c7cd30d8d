"""The direction of imports between the folders of the package, as pyproject.toml has it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT


def test_imports_keep_their_contracts():
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
