"""The measurement sees the first step of a real run, and the run stops as an interrupted one does."""

from pathlib import Path

import pytest

from studies import start


def test_the_first_step_is_seen(chests: Path, tmp_path: Path) -> None:
    seconds = start.first_step(tmp_path, f"--data={chests}", "--config.model.image_size=32", "--config.batch_size=12")
    assert seconds > 0
    [workdir] = [path for path in tmp_path.iterdir() if path.name != "cache"]
    assert not (workdir / "report").exists()


@pytest.mark.slow
def test_a_command_that_fails_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="showed no step: .*no such data: 'nowhere'"):
        start.first_step(tmp_path, "--data=nowhere")
