"""Shards by TFDS, written and read for training in ways of less work for the reader than its own."""

import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate

from etils import epath

from pneumojax.data.quiet_tensorflow import import_tfds, import_tfds_to_read, telling_what_is_missing

FILE_FORMAT = "array_record"
Examples = Callable[[Sequence[int]], Iterator[Mapping[str, memoryview]]]


def uncompressed_writer():
    """What a builder of TFDS in this `FILE_FORMAT` has its examples written by.

    The compression that TFDS asks for would save radiographs a seventh of their size, and take longer to undo than all
    else that reading them takes.

    Raises:
      UserError: TFDS or ArrayRecord is not installed.
    """
    tfds = import_tfds()
    with telling_what_is_missing():
        from array_record.python.array_record_module import ArrayRecordWriter

    class Uncompressed(tfds.core.writer.ExampleWriter):
        def write(self, path, examples):
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
            for _, example in examples:
                writer.write(example)
            writer.close()

    return Uncompressed(tfds.core.FileFormat(FILE_FORMAT))


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

    info = tfds.builder_from_directory(folder).info
    paths = list(map(str, info.splits[split].filepaths))
    ends = list(accumulate(info.splits[split].shard_lengths))
    # What lies at random places is not read ahead of.
    reader = cache(lambda shard: ArrayRecordReader(paths[shard], options="readahead_buffer_size:0"))

    def example(place):
        shard = bisect_right(ends, place)
        # One at a time: several would be divided among threads, which costs more than it saves.
        [record] = reader(shard).read([place - (ends[shard - 1] if shard else 0)])
        return _features(record, wanted)

    return info, lambda places: map(example, places)


def _features(example: bytes, wanted: Collection[str]) -> dict[str, memoryview]:
    """The bytes of the `wanted` features of a serialized tf.train.Example.

    Protobuf's own parser has glibc, every so often, give all free memory back to the system: what XLA takes anew in
    every step then costs it page faults (see `allocator`).
    """
    found = {}
    at, end = _field(example, 0)
    while at < end:
        entry, after = _field(example, at)
        key, value = _field(example, entry)
        if (name := example[key:value].decode()) in wanted:
            for _ in ("feature", "bytes_list", "value"):
                value, ends = _field(example, value)
            found[name] = memoryview(example)[value:ends]
        at = after
    return found


def _field(message: bytes, at: int) -> tuple[int, int]:
    """Where a field's content begins and ends: Protobuf writes a tag, here of one byte, then the content's length."""
    length = shift = 0
    while True:
        at += 1
        length |= (message[at] & 0x7F) << shift
        if message[at] < 0x80:
            return at + 1, at + 1 + length
        shift += 7
