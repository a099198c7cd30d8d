"""What a config makes a benchmark measure, and which fields it refuses."""

import pytest

from pneumojax.benchmark.plan import plan, rules, tasks
from pneumojax.benchmark.tasks import Task
from pneumojax.runtime import config as configs
from pneumojax.runtime.errors import UserError


def config_with(**fields):
    config = configs.load("m2")
    for field, text in fields.items():
        config = configs.override(config, [f"benchmark.{field}={text}"])
    configs.check(config, [rules])
    return config


def test_the_configs_model_is_measured_unless_others_are_named():
    assert plan(config_with()).models == ("m2",)
    assert plan(config_with(models="m3,m1")).models == ("m3", "m1")


def test_further_values_are_measured_one_at_a_time_in_train_and_infer_alone():
    config = config_with(modes="train,feed,feed-train", batch_sizes="8,4", image_sizes="32", devices="1,2")
    assert tasks(plan(config)) == [
        Task("m2", "train", 8, 32, "float32", 1),
        Task("m2", "feed-train", 8, 32, "float32", 1),
        Task("m2", "train", 4, 32, "float32", 1),
        Task("m2", "train", 8, 32, "float32", 2),
        Task("m2", "feed", 8, 32, "float32", 1),
    ]


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("models", "m1,m4", "a comma-separated list of m1, m2, m3, or empty, not 'm1,m4'"),
        ("models", "m1,m1", "a comma-separated list of m1, m2, m3"),
        ("modes", "", "list of train, train-augmented, infer, feed, feed-train, resident-train, not ''"),
        ("batch_sizes", "32;64", "a comma-separated list of numbers from 1 to 65536, such as 32,64, not '32;64'"),
        ("batch_sizes", "0", "from 1 to 65536"),
        ("image_sizes", "150,8", "from 16 to 4096"),
        ("precisions", "float16", "a comma-separated list of float32, tf32, bfloat16"),
        ("devices", "", "from 1 to 4096"),
        ("peers", "jax", "list of pneumojax-xla, keras-tensorflow, keras-jax, torch, torch-compile, torch-max-auto"),
        ("rounds", "0", "from 1 to 1000"),
        ("seconds", "0", "above 0"),
    ],
)
def test_a_wrong_field_is_explained_in_one_line(field, text, message):
    with pytest.raises(UserError, match=f"config field 'benchmark.{field}' must be") as error:
        config_with(**{field: text})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_benchmarks_settings_do_not_make_another_run():
    assert configs.differences(config_with(batch_sizes="4"), config_with()) == []
