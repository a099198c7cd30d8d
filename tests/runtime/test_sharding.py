"""The devices of a job, which rows of a batch each process feeds, and the flags that XLA is given."""

import subprocess
import sys

import numpy as np
import pytest

from pneumojax.runtime import sharding
from pneumojax.runtime.errors import UserError

PROGRAM = """
import os
import jax
from pneumojax.runtime import sharding
sharding.compute_deterministically()
assert int(jax.jit(lambda x: x + 1)(1)) == 2
assert jax.config.jax_persistent_cache_enable_xla_caches == "none"  # or XLA would use what an earlier run chose
print(os.environ["XLA_FLAGS"])
"""


def test_xla_accepts_the_flag_for_deterministic_computation():
    """XLA ends a process with a flag that it does not know; flags that the user has set stay."""
    environment = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["--xla_cpu_enable_fast_math=false", "--xla_gpu_deterministic_ops=true"]


def test_the_devices_line_counts_all_devices():
    assert sharding.devices_line() == "8 of cpu"


def test_one_process_feeds_all_rows_of_a_batch():
    assert sharding.own_rows(sharding.layout(), 16) == slice(0, 16)


def test_a_batch_that_cannot_be_divided_over_the_devices_is_refused():
    with pytest.raises(UserError, match="a batch of 12 cannot be divided over 8 devices: choose a multiple"):
        sharding.own_rows(sharding.layout(), 12)


def test_arrays_are_batch_sharded_or_replicated():
    layout = sharding.layout()
    rows = np.arange(16, dtype=np.float32).reshape(16, 1)
    sharded = sharding.place(layout, rows)
    whole = sharding.place_whole(layout.replicated, rows)
    assert [shard.data.shape for shard in sharded.addressable_shards] == [(2, 1)] * 8
    assert [shard.data.shape for shard in whole.addressable_shards] == [(16, 1)] * 8
    np.testing.assert_array_equal(sharded, rows)
    np.testing.assert_array_equal(whole, rows)
