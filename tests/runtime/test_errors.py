"""Exit statuses, and messages on one line that is safe to print."""

import pytest

from pneumojax.runtime import errors
from pneumojax.runtime.errors import ExitStatus, UserError


def test_exit_statuses_are_those_that_scripts_rely_on():
    assert {status.name: int(status) for status in ExitStatus} == {
        "DONE": 0, "FINDINGS": 1, "USER_ERROR": 2, "CRASHED": 70, "STOPPED": 75, "LOST_PROCESS": 76,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\u202eb", r"a\u202eb"),  # it would turn the direction of the text
        ("肺炎\u3000brüst", "肺炎\u3000brüst"),
    ],
)
def test_a_message_is_one_line_without_control_characters(message, shown):
    assert errors.one_line(message) == shown
    assert str(UserError(message)) == shown


def test_a_long_message_keeps_its_start_and_its_end():
    shown = errors.one_line("start" + "x" * 5000 + "end")
    assert len(shown) <= errors.MAX_LINE
    assert shown.startswith("start")
    assert shown.endswith("end")
    assert " ... " in shown
    assert errors.one_line("x" * errors.MAX_LINE) == "x" * errors.MAX_LINE


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("papr", ["paper", "notebook"], "no recipe 'papr': did you mean paper?"),
        ("best", ["paper", "notebook", "paper"], "no recipe 'best': choose from notebook, paper"),
        ("fold1", ["fold2", "fold3"], "no recipe 'fold1': did you mean fold"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest_or_all_known_ones(name, known, message):
    error = errors.unknown("recipe", name, known)
    assert isinstance(error, UserError)
    assert message in str(error)


def test_of_many_known_names_twenty_are_listed():
    message = str(errors.unknown("field", "?", [f"a{number:02}" for number in range(25)]))
    assert message == f"no field '?': choose from {', '.join(f'a{number:02}' for number in range(20))} and 5 more"
