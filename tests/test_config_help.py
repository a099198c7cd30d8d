"""`--help-config`: every field with its default, its comment and its range, in 80 columns."""

import pytest

from pneumojax import config_help
from pneumojax.runtime import config as configs


@pytest.fixture(scope="module")
def text():
    return config_help.fields_help()


@pytest.fixture(scope="module")
def descriptions(text):
    """The description of each field, by the field with its default ("epochs=20")."""
    entries = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 2:
            entries.append([line.strip(), ""])
        elif indent == 4:  # a default that does not fit beside its field
            entries[-1][0] += line.strip()
        elif indent == 6:
            entries[-1][1] += f" {line.strip()}"
    return {field: description.strip() for field, description in entries}


def test_every_field_is_listed_with_its_default(descriptions):
    fields = configs.fields(configs.load("m1"))
    expected = [f"{field}={default!r}" for field, default in fields.items() if field not in ("name", "recipe")]
    assert sorted(descriptions) == sorted(expected)


def test_a_field_has_the_comment_beside_it_and_the_range_of_its_rule(descriptions):
    """The comment is in the file that all configs share; the range is in the part that reads the field."""
    [line] = [line for line in configs.shared_source().splitlines() if '"batch_size": 16' in line]
    comment = line.partition("# ")[2]
    assert comment
    assert descriptions["batch_size=16"].startswith(comment)
    assert "from 1 to 1,000,000" in descriptions["epochs=20"]
    assert "fail or skip" in descriptions["data.on_error='fail'"]
    assert "from 1 to 1000" in descriptions["benchmark.rounds=5"], "the benchmark's own rules count too"


def test_the_fields_are_grouped(text):
    headings = {line for line in text.splitlines() if line and not line.startswith(" ")}
    groups = {field.rpartition(".")[0] for field in configs.fields(configs.load("m1"))}
    assert groups - {""} <= headings


def test_the_lines_fit_80_columns(text):
    assert [line for line in text.splitlines() if len(line) > 80 or line != line.rstrip()] == []
