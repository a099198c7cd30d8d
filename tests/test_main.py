"""The command line: its help, its hints, its exit statuses, and one line for each mistake."""

import os
import shutil
import subprocess
import sys

import pytest
from support import ROOT, draw, draw_folder, in_process, pneumojax, refused, without_tensorflow

from pneumojax import __version__, main, modes


def assert_fits(text, width=80):
    assert [line for line in text.splitlines() if len(line) > width] == []


def test_the_help_shows_every_mode_and_flag():
    text = main.usage()
    for name, mode in modes.MODES.items():
        assert f"--mode={name} {mode.usage}" in text
        assert mode.summary in text
    flags = ("config", "workdir", "data", "coordinator", "processes", "process", "join_seconds")
    for flag in (*flags, "config.FIELD", "help-config", "version"):
        assert f"--{flag}" in text
    assert_fits(text)


@pytest.mark.parametrize(
    ("flag", "start"),
    [
        ("-h", main.usage()[:40]),
        ("--help", main.usage()[:40]),
        ("--help-config", "Fields of the config"),
        ("--version", f"pneumojax {__version__}\n"),
    ],
)
def test_a_question_is_answered_before_anything_else_is_checked(tmp_path, flag, start):
    done = pneumojax("--config=m9", flag, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(start)
    assert os.listdir(tmp_path) == []


def test_the_package_runs_as_its_main_module_does(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for module in ("pneumojax", "pneumojax.main"):
        command = [sys.executable, "-m", module, "--version"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"pneumojax {__version__}\n"), done.stderr


def test_help_that_nobody_reads_to_its_end_ends_quietly(tmp_path):
    """As with `| head -1`."""
    command = [sys.executable, "-m", "pneumojax.main", "--help-config"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


def loaded_by(module):
    """Return which of the slow libraries the import of a module loads."""
    slow = ("jax", "numpy", "tensorflow", "matplotlib", "scipy", "ml_collections")
    program = f"import sys, {module}; print(*({slow} & sys.modules.keys()))".replace(str(slow), str(set(slow)))
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_slow_library():
    """Its API is loaded on first use."""
    assert loaded_by("pneumojax") == set()


def test_importing_the_command_line_loads_no_numpy():
    """The mode decides how many threads NumPy's BLAS gets, which it reads when it is loaded."""
    assert loaded_by("pneumojax.main") == set()


def test_the_api_of_the_package_is_complete():
    import pneumojax

    for name in pneumojax.__all__:
        assert getattr(pneumojax, name)
    assert pneumojax.load_config("m1").model.name == "m1"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pneumojax.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --config"),
        (["--config=m1", "--epochs=3"], "did you mean --config.epochs=3?"),
        (["--config=m1", "--learning_rate=1"], "did you mean --config.optimizer.learning_rate=1?"),
        (["--config=m1", "--mode=dance"], "dance"),
        (["--config=m1", "--wrkdir=x"], "wrkdir"),
        (["--config=m1", "stray"], "unexpected argument 'stray': write flags as --name=value"),
        (["--mode=predict", "--data", "a.dcm", "b.DCM"], "unexpected argument 'b.DCM': put a pattern in quotes"),
        (["--mode=predict", "--data=a.png", "b.png"], "unexpected argument 'b.png': put a pattern in quotes"),
    ],
)
def test_a_mistake_in_the_command_is_reported_in_one_line(tmp_path, arguments, message):
    assert message in refused(*arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=m9"], "no config 'm9': choose from m1, m2, m3"),
        (["--config=base"], "no config 'base': choose from m1, m2, m3"),
        (["--config=base:paper"], "no config 'base': choose from m1, m2, m3"),
        (["--config="], "no config ''"),
        (["--config=m1:best"], "no recipe 'best': choose from 28px, notebook, paper, recommended"),
        (["--config=m1", "--config.optimizer.lr=1"], "did you mean optimizer.learning_rate?"),
        (["--config=m1", "--config.optimizer.learning_rat=1"], "did you mean optimizer.learning_rate"),
        (["--config=m1", "--config.epochs=many"], "takes a whole number, not 'many'"),
        (["--config=m1", "--config.epochs=0"], "'epochs' must be from 1"),
        (["--config=m1", "--config.epochs"], "'epochs' needs a value"),
        (["--config=m1", "--data=nowhere"], "no such data: 'nowhere'"),
        (["--config=m1", "--data="], "no such data: ''"),
        (["--config=m1", "--workdir=/dev/null/run"], "/dev/null/run"),
        (["--mode=evaluate", "--workdir=nowhere"], "no run in nowhere"),
        (["--mode=evaluate", "--config=m1", "--workdir=nowhere"], "no run in nowhere"),
    ],
)
def test_a_mistake_in_the_settings_is_reported_in_one_line(tmp_path, arguments, message):
    assert message in refused(*arguments, cwd=tmp_path, run=in_process)


@pytest.mark.parametrize("kind", ["empty", "one class", "broken image", "file"])
def test_a_mistake_in_the_data_is_reported_in_one_line(tmp_path, tiny, kind):
    data = tmp_path / "data"
    if kind == "empty":
        data.mkdir()
        message = "holds no images"
    elif kind == "one class":
        draw_folder(data, "train", 0, 5)
        message = "no normal image"
    elif kind == "broken image":
        draw_folder(data, "train", 30, 30)
        for name in ("chest 003.png", "chest 007.png"):
            (data / "train/NORMAL" / name).write_bytes((data / "train/NORMAL" / name).read_bytes()[:300])
        message = ": train/NORMAL/chest 003.png"
    else:
        data.write_text("not a folder")
        message = "neither an .npz file nor an image"
    folder = tmp_path / "here"
    folder.mkdir()
    done = in_process("--config=m1", f"--data={data}", "--config.data.cache_dir=cache", *tiny, cwd=folder)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert message in line


def test_what_needs_tensorflow_says_so_in_one_line(chests, tmp_path, tiny):
    for arguments in (["--mode=prepare"], ["--config=m1", "--config.data.resident=never", *tiny]):
        done = without_tensorflow(*arguments, f"--data={chests}", "--config.data.cache_dir=cache", cwd=tmp_path)
        [line] = done.stderr.splitlines()
        assert (done.returncode, list(tmp_path.glob("runs/*"))) == (2, [])
        assert "pip install tensorflow tensorflow-datasets array-record" in line


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A folder with `work`, a finished run on `chests`, and its `cache`."""
    return shutil.copytree(finished[0], tmp_path_factory.mktemp("run") / "here")


def test_other_settings_in_a_used_workdir_are_refused(folder):
    line = refused("--workdir=work", "--config.seed=3", cwd=folder, run=in_process)
    assert "holds a run with other settings (seed=3, not 0)" in line


@pytest.mark.parametrize("override", ["--config.seed=5", "--config.data.val_fraction=0.3", "--config=m1"])
def test_evaluating_a_run_with_other_settings_is_refused(folder, override):
    """With another seed, val would be carved from the training images; another size is another network."""
    assert "with other settings" in refused("--mode=evaluate", "--workdir=work", override, cwd=folder, run=in_process)


def test_images_that_changed_since_the_run_started_are_refused(folder, chests):
    """Val would be carved differently, and a resumed run would train on images that it is chosen by."""
    more = chests / "train/NORMAL/one more.png"
    shutil.copy(chests / "train/NORMAL/chest 000.png", more)
    try:
        for mode in ("train", "evaluate"):
            line = refused("--workdir=work", f"--mode={mode}", cwd=folder, run=in_process)
            assert "the images are not those that the run in work started with" in line
    finally:
        more.unlink()


def test_a_damaged_cache_is_named(folder, chests, tmp_path, tiny):
    shutil.copytree(folder / "cache", tmp_path / "cache")
    [index] = (tmp_path / "cache").glob("*/index.json")
    index.unlink()
    arguments = ["--config=m1", f"--data={chests}", "--config.data.cache_dir=cache", *tiny]
    done = in_process(*arguments, "--workdir=work", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert f"{index.parent.name} is damaged: remove it" in line


def test_a_workdir_with_other_files_is_left_alone(chests, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    line = refused("--config=m1", f"--data={chests}", "--workdir=thesis", cwd=tmp_path, run=in_process)
    assert "is not empty" in line


def test_a_checkpoint_of_another_model_is_refused(folder):
    arguments = ("--mode=evaluate", "--config=m2", "--workdir=work", "--config.model.image_size=32")
    line = refused(*arguments, cwd=folder, run=in_process)
    assert "holds a run with other settings (model.name='m2', not 'm1')" in line


def test_evaluating_a_run_without_a_checkpoint_is_refused(folder, tmp_path):
    (tmp_path / "work").mkdir()
    for name in ("config.json", "splits.csv"):
        shutil.copy(folder / "work" / name, tmp_path / "work")
    line = refused("--mode=evaluate", "--workdir=work", cwd=tmp_path, run=in_process)
    assert "no checkpoint" in line
    assert "train first" in line


@pytest.mark.parametrize(
    "end",
    [
        "from pneumojax.runtime import signals; signals.leave_on_signals(); signal.raise_signal(signal.SIGTERM)",
        "from pneumojax import main; from pneumojax.runtime import signals; main.stop(signals.MESSAGE, 75)",
    ],
)
def test_the_exit_status_is_right_when_nobody_reads_the_message(end):
    """Ctrl-C ends `tee` in a pipeline too."""
    program = f"import signal, sys; sys.stdin.read(); {end}"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, stderr=subprocess.STDOUT, cwd=ROOT)
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 75


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        ("UserError('wrong: do this')", 2, "pneumojax: wrong: do this\n"),
        ("OSError(28, 'No space left on device', 'work')", 2, "pneumojax: work: No space left on device\n"),
        ("KeyboardInterrupt()", 75, "pneumojax: interrupted: run the same command again to continue\n"),
        ("distributed.NotJoined('nobody came')", 76, "pneumojax: nobody came\n"),
        ("ZeroDivisionError('bug')", 70, "Traceback"),
    ],
)
def test_every_kind_of_error_has_its_exit_status(tmp_path, error, status, message):
    """Only a bug shows a traceback."""
    program = (
        "import sys\nfrom pneumojax import main, modes\nfrom pneumojax.runtime import distributed\n"
        "from pneumojax.runtime.errors import UserError\n"
        f"def fail(mode, command): raise {error}\n"
        "modes.run = fail\nmain.run()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, "--config=m1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(message)
    assert ("Traceback" in done.stderr) is (status == 70)


@pytest.mark.parametrize("platform", ["cuda", "gpu", "tpu", "abacus"])
def test_a_device_that_is_not_here_is_reported_in_one_line(folder, platform):
    done = pneumojax("--mode=predict", "--workdir=work", "--data=work", cwd=folder, JAX_PLATFORMS=platform)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"pneumojax: JAX_PLATFORMS={platform}: JAX finds no such device (")
    assert "unset JAX_PLATFORMS" in line


def test_a_terminal_that_cannot_spell_a_name_shows_its_number(folder, chests, tmp_path):
    shutil.copytree(folder / "work", tmp_path / "work")
    shutil.copy(chests / "train/NORMAL/chest 000.png", tmp_path / "胸.png")
    latin = {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}
    done = pneumojax("--mode=predict", "--workdir=work", "--data=胸.png", cwd=tmp_path, **latin)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u80f8.png" in done.stdout
    assert "胸.png" in next((tmp_path / "work/predictions").iterdir()).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 1000])
def test_a_limit_on_the_size_of_files_is_reported_in_one_line(chests, tmp_path, tiny, blocks):
    """`ulimit -f`: shards, checkpoints, events and tables are written by different libraries."""
    flags = ["--config=m1", f"--data={chests}", "--workdir=work", "--config.data.cache_dir=cache", *tiny]
    command = ["bash", "-c", 'ulimit -f "$0"; exec "$@"', str(blocks), sys.executable, "-m", "pneumojax.main", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert "File too large" in line


NO_HOME = """
import os, pwd
os.environ.pop("HOME", None)
def unknown(_): raise KeyError
pwd.getpwuid = unknown
from pneumojax.main import run
run()
"""


def test_without_a_home_a_path_that_needs_one_is_refused(tmp_path):
    """Otherwise a folder named ~ would be made here."""
    for flags in (["--workdir=~/x"], ["--workdir=x", "--config.data.cache_dir=~/x"], ["--data=~/x", "--workdir=x"]):
        command = [sys.executable, "-c", NO_HOME, "--mode=prepare", "--config=m1", *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        [line] = done.stderr.splitlines()
        assert "home" in line
        assert not (tmp_path / "~").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, memory cannot be limited like this")
def test_too_little_memory_is_reported_in_a_line(tmp_path):
    draw(tmp_path / "film.png", 0, 1)
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000, 1_500_000_000));"
        "from pneumojax.main import run; run()"
    )
    command = (
        "--mode=predict",
        "--model=m1",
        "--data=film.png",
        "--workdir=work",
        "--config.evaluation.batch_size=60000",
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *command], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("pneumojax: not enough memory: lower --config.batch_size or --config.evaluation.batch_size")
    assert not list(tmp_path.rglob("*.csv"))
