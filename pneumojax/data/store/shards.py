"""TFDS's shards, written and read in ways that take the reader less work than TFDS's own."""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

from etils import epath

from pneumojax.data.tensorflow_import import explaining_missing_package, import_tfds, import_tfds_to_read

FILE_FORMAT = "array_record"
Examples = Callable[[Sequence[int]], Iterator[Mapping[str, memoryview]]]


def uncompressed_writer() -> Any:
    """Return a TFDS ExampleWriter, for a builder with this `FILE_FORMAT`.

    TFDS's compression would save a seventh of the size of radiographs, and undoing it would take longer than everything
    else in reading them.

    Raises:
      UserError: TFDS or ArrayRecord is not installed.
    """
    tfds = import_tfds()
    with explaining_missing_package():
        from array_record.python.array_record_module import ArrayRecordWriter

    class Uncompressed(tfds.core.writer.ExampleWriter):
        def write(self, path: os.PathLike[str], examples: Iterable[tuple[Any, bytes]]) -> None:
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
            for _, example in examples:
                writer.write(example)
            writer.close()

    return Uncompressed(tfds.core.FileFormat(FILE_FORMAT))


def open_shards(folder: epath.Path, split: str, *names: str) -> tuple[Any, Examples]:
    """Open the ArrayRecord shards of a TFDS builder, for features that are bytes: texts, and tensors encoded as such.

    Returns:
      TFDS's DatasetInfo; and a function: places in the split, from 0 -> the named features of each, in order. It opens
      a shard on the first read from it. It raises IndexError beyond the last place, and whatever ArrayRecord raises on
      a damaged shard.

    Raises:
      UserError: TFDS or ArrayRecord is not installed.
    """
    tfds = import_tfds_to_read()
    with explaining_missing_package():
        from array_record.python.array_record_module import ArrayRecordReader
        from tensorflow_datasets.proto import tf_example_pb2

    info = tfds.builder_from_directory(folder).info
    paths = list(map(str, info.splits[split].filepaths))
    ends = list(accumulate(info.splits[split].shard_lengths))
    # Places are random, so reading ahead would be wasted.
    reader = cache(lambda shard: ArrayRecordReader(paths[shard], options="readahead_buffer_size:0"))

    def example(place: int) -> Mapping[str, memoryview]:
        shard = bisect_right(ends, place)
        # One at a time: ArrayRecord divides several among threads, which costs more than it saves.
        [record] = reader(shard).read([place - (ends[shard - 1] if shard else 0)])
        parsed: Any = tf_example_pb2.Example.FromString(record)  # pyright: ignore[reportAttributeAccessIssue]: Protobuf's
        features = parsed.features.feature
        return {name: memoryview(features[name].bytes_list.value[0]) for name in names}

    return info, lambda places: map(example, places)
