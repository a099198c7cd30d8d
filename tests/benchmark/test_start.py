"""The measurement sees the first step of a real run, and the run stops as one that is interrupted."""

import pytest

from pneumojax.benchmark import start


def test_the_first_step_is_seen(chests, tmp_path):
    seconds = start.first_step(tmp_path, f"--data={chests}", "--config.model.image_size=32", "--config.batch_size=12")
    assert seconds > 0
    [workdir] = [path for path in tmp_path.iterdir() if path.name != "cache"]
    assert not (workdir / "report").exists()


def test_a_command_that_fails_is_told(tmp_path):
    with pytest.raises(SystemExit, match="no step was seen: .*no such data: 'nowhere'"):
        start.first_step(tmp_path, "--data=nowhere")
