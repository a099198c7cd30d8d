"""Prepare a source once: a TFDS builder writes every image into shards, grey and at the model's size."""

import contextlib
import hashlib
import io
import json
import os
import shlex
import socket
import uuid
from collections.abc import Iterable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import psutil
from etils import epath

from pneumojax.data.audit.duplicates import SIGNATURE, content_of, same_pictures, signature
from pneumojax.data.decode.unreadable import UnreadableImage
from pneumojax.data.parallel import CRASHES, Watched, in_parallel, unwatched
from pneumojax.data.source import Prepared, Record, Source, refuse_unreadable, try_read
from pneumojax.data.store.shards import FILE_FORMAT, Examples, open_shards, uncompressed_writer
from pneumojax.data.tensorflow_import import import_tfds
from pneumojax.runtime import cache
from pneumojax.runtime.errors import UserError
from pneumojax.runtime.files import no_room

FORMAT = 5  # of the content of shards: raise it with every change
INDEX = "index.json"
_SHARDS = "images"  # TFDS's name for its single split; the splits to train with are chosen later


class Means(NamedTuple):
    """How to prepare a source; the shards do not depend on it.

    Attributes:
      workers: processes; 0 for one per core, or threads for few images.
      beam_runner: the name of an Apache Beam runner, which then does the work; empty for none.
      beam_options: flags for Beam, as on a command line.
      watched: reports the results as they come, see `run_log.reading_watch`.
    """

    workers: int = 0
    beam_runner: str = ""
    beam_options: str = ""
    watched: Watched = unwatched


DEFAULT_MEANS = Means()

Example = tuple[str, dict[str, Any]]  # (key, features), as TFDS takes them


def prepare(
    source: Source, *, size: int, cache_dir: str = "", on_error: str = "fail", means: Means = DEFAULT_MEANS
) -> Prepared:
    """Open the source's shards of grey uint8 squares; write them first if they are missing.

    Their folder is named by all that they depend on: the source's fingerprint, ids and labels, and the size. It gets
    this name when it is complete, so that the files of a killed process are never taken for a complete preparation.

    Every record has a label; `size` is the side in pixels; `on_error` is "fail" or "skip"; an empty `cache_dir` is the
    user's cache folder.

    Raises:
      UnreadableImages: some are unreadable and `on_error` is "fail"; the message counts all and names the first few.
      UserError: the shards are damaged, the disk is full, or Apache Beam is not installed or cannot be started.
    """
    folder = folder_of(source, size, cache_dir)
    if folder.exists():
        prepared = _open(folder)
        if on_error == "skip" or not prepared.unreadable:
            return prepared
        again = {id for id, reason in prepared.unreadable.items() if reason != CRASHES}
        records = (record for record in source.records if record.id in again)
        if all(isinstance(try_read(source, size, record), UnreadableImage) for record in records):
            refuse_unreadable(prepared.unreadable)
        folder.rmtree()  # the images can be read again, as when a disk was not mounted
    _write(source, size, folder, on_error, means)
    return _open(folder)


def folder_of(source: Source, size: int, cache_dir: str) -> epath.Path:
    """Return the folder where the shards are, or will be."""
    return cache.folder(cache_dir) / f"{source.name}-{_key(source, size)}"


def _open(folder: epath.Path) -> Prepared:
    try:
        index = json.loads((folder / INDEX).read_text())
        info, examples = open_shards(folder, _SHARDS, "image")
        places = {id: place for place, id in enumerate(index["ids"]) if id not in index["unreadable"]}
        read = partial(_read, folder, info.features["image"].shape, examples)
        facts = {name: index[name] for name in ("unreadable", "identical", "near_equal", "content")}
        return Prepared(places, **facts, read=read, folder=folder)
    except UserError:
        raise
    except Exception as error:  # damaged shards make their readers raise errors of many kinds
        raise _damaged(folder) from error


def _damaged(folder: epath.Path) -> UserError:
    return UserError(f"{folder} is damaged: remove it, and it will be written again")


def _read(folder: epath.Path, shape: tuple[int, ...], examples: Examples, places: np.ndarray) -> np.ndarray:
    try:
        rows = examples(np.asarray(places).tolist())
        return np.stack([np.frombuffer(row["image"], np.uint8).reshape(shape) for row in rows])
    except Exception as error:  # a shard is not opened before it is read
        raise _damaged(folder) from error


def _key(source: Source, size: int) -> str:
    members = [record[:2] for record in source.records]
    content = json.dumps([FORMAT, size, source.location, source.fingerprint, members])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _write(source: Source, size: int, folder: epath.Path, on_error: str, means: Means) -> None:
    _remove_abandoned(folder.parent)
    partial_folder = folder.parent / f"{folder.name}{_partial_mark()}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        builder = _builder_to(partial_folder, source, size, means)
        _build(builder, means)
        index = _index(builder.data_path)
        if on_error == "fail":
            refuse_unreadable(index["unreadable"])
        (builder.data_path / INDEX).write_text(json.dumps(index))
        try:
            builder.data_path.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster and wrote the same
                raise
    finally:
        if partial_folder.exists():
            partial_folder.rmtree()


def _build(builder: Any, means: Means) -> None:
    settings = {"try_download_gcs": False} | (_beam_settings(means) if means.beam_runner else {})
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints what it does
            builder.download_and_prepare(download_config=import_tfds().download.DownloadConfig(**settings))
    except Exception as error:
        if full := no_room(error):  # the writer of shards has its own kinds of errors
            raise UserError(f"{full}: make room, or choose another --config.data.cache_dir") from error
        raise


def _beam_settings(means: Means) -> dict[str, Any]:
    beam, printed = _import_beam(), io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            options = beam.options.pipeline_options.PipelineOptions(shlex.split(means.beam_options))
            options.get_all_options()
            beam.runners.create_runner(means.beam_runner)
    except (Exception, SystemExit) as error:  # its parser prints its usage and exits
        reason = (printed.getvalue().strip().splitlines() or [str(error)])[-1]
        advice = "fix --config.data.beam_runner or --config.data.beam_options"
        raise UserError(f"Apache Beam cannot be started: {reason}: {advice}") from error
    return {"beam_runner": means.beam_runner, "beam_options": options}


def _import_beam() -> ModuleType:
    try:
        import apache_beam
    except ImportError:
        raise UserError("Apache Beam is not installed: pip install -e .[beam]") from None
    return apache_beam


def _partial_mark() -> str:
    return f".partial-{socket.gethostname()}-"


def _remove_abandoned(where: epath.Path) -> None:
    """Remove what killed preparations on this machine left."""
    for abandoned in where.glob(f"*{_partial_mark()}*"):
        process = abandoned.name.partition(_partial_mark())[2].partition("-")[0]
        # This process's own number is that of a killed process in another container, where numbers start again.
        if process.isdecimal() and (int(process) == os.getpid() or not psutil.pid_exists(int(process))):
            abandoned.rmtree(missing_ok=True)


def _builder_to(folder: epath.Path, source: Source, size: int, means: Means) -> Any:
    """Return a TFDS builder that writes the source's images into `folder`."""
    tfds = import_tfds()
    # Without the records, which are many: workers get theirs in chunks.
    read = partial(_example, source._replace(records=()), size)

    # pyright does not know the base class.
    class Radiographs(  # pyright: ignore[reportGeneralTypeIssues]
        tfds.core.GeneratorBasedBuilder,
        skip_registration=True,  # pyright: ignore[reportCallIssue]
    ):
        """Grey radiographs at a model's size."""

        VERSION = tfds.core.Version(f"{FORMAT}.0.0")

        def _info(self) -> Any:
            info = self.dataset_info_from_configs(features=_features(tfds, size))
            info.initialize_from_bucket = lambda: None  # it would leave an empty folder behind
            return info

        def _example_writer(self) -> Any:
            return uncompressed_writer()

        def _split_generators(self, download_manager: Any) -> dict[str, Any]:
            return {_SHARDS: self._generate_examples(source.records)}

        def _generate_examples(self, records: Sequence[Record]) -> Iterable[Example]:
            if means.beam_runner:
                beam = _import_beam()
                return beam.Create(records) | beam.Map(read)
            results = in_parallel(read, records, means.workers)
            examples = (
                _blank(size, record, example) if isinstance(example, UnreadableImage) else example
                for record, example in zip(records, results, strict=True)
            )
            return means.watched(examples, len(records))

    return Radiographs(data_dir=folder, file_format=FILE_FORMAT)


def _features(tfds: ModuleType, size: int) -> Any:
    tensor = partial(tfds.features.Tensor, dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict(
        {
            "image": tensor(shape=(size, size, 1)),
            "label": tfds.features.Scalar(np.uint8),
            "id": tfds.features.Text(),
            "unreadable": tfds.features.Text(doc="why the image could not be read; it is black then"),
            "signature": tensor(shape=(SIGNATURE,), doc="its SHA-256, perceptual hash and thumbnail"),
        }
    )


def _example(source: Source, size: int, record: Record) -> Example:
    image = try_read(source, size, record)
    if isinstance(image, UnreadableImage):
        return _blank(size, record, image)
    return _row(record, image, "", signature(image))


def _blank(size: int, record: Record, reason: UnreadableImage) -> Example:
    """Return the example of a record that cannot be read."""
    return _row(record, np.zeros((size, size), np.uint8), str(reason), bytes(SIGNATURE))


def _row(record: Record, image: np.ndarray, unreadable: str, signature: bytes) -> Example:
    features = {"image": image[..., None], "label": record.label, "id": record.id, "unreadable": unreadable}
    return record.id, features | {"signature": np.frombuffer(signature, np.uint8)}


def _index(folder: epath.Path) -> dict[str, Any]:
    """Return what `_open` must know about shards, so that it need not read them."""
    info, examples = open_shards(folder, _SHARDS, "id", "unreadable", "signature")
    ids, unreadable, signatures = [], {}, {}
    for row in examples(range(info.splits[_SHARDS].num_examples)):
        ids.append(str(row["id"], "utf-8"))
        if row["unreadable"]:
            unreadable[ids[-1]] = str(row["unreadable"], "utf-8")
        else:
            signatures[ids[-1]] = bytes(row["signature"])
    identical, near_equal = same_pictures(signatures)
    content = content_of(signatures)
    return {"ids": ids, "unreadable": unreadable, "identical": identical, "near_equal": near_equal, "content": content}
