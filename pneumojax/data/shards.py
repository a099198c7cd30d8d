"""Examples by their places, from shards that TFDS wrote. Its own way to read them takes half as long again, or more."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate

from etils import epath

from pneumojax.data.quiet_tensorflow import import_tfds_to_read, telling_what_is_missing

Examples = Callable[[Sequence[int]], Iterator[Mapping[str, bytes]]]


def open_shards(folder: epath.Path, split: str, *wanted: str) -> tuple[object, Examples]:
    """Opens what a TFDS builder wrote as ArrayRecord, of features that are bytes: texts, and tensors encoded as such.

    Args:
      folder: the builder's.
      split: TFDS's name of the split.
      wanted: names of features.

    Returns:
      TFDS's DatasetInfo; and a function: places in the split, from 0 -> the `wanted` features of each, in order.
      A shard is opened when it is first read from. Beyond the last place there is an IndexError, and of a damaged
      shard whatever ArrayRecord raises.

    Raises:
      UserError: TFDS or ArrayRecord is not installed.
    """
    tfds = import_tfds_to_read()
    with telling_what_is_missing():
        from array_record.python.array_record_module import ArrayRecordReader
        from tensorflow_datasets.proto import tf_example_pb2

    info = tfds.builder_from_directory(folder).info
    paths = list(map(str, info.splits[split].filepaths))
    ends = list(accumulate(info.splits[split].shard_lengths))
    # What lies at random places is not read ahead of.
    reader = cache(lambda shard: ArrayRecordReader(paths[shard], options="readahead_buffer_size:0"))

    def example(place):
        shard = bisect_right(ends, place)
        # One at a time: several would be divided among threads, which costs more than it saves.
        [record] = reader(shard).read([place - (ends[shard - 1] if shard else 0)])
        features = tf_example_pb2.Example.FromString(record).features.feature
        return {name: features[name].bytes_list.value[0] for name in wanted}

    return info, lambda places: map(example, places)
