"""Prepares a source once: a TFDS builder writes every image, grey and at the model's size, into shards."""

import contextlib
import hashlib
import io
import json
import os
import shlex
import socket
import uuid
from functools import partial
from typing import NamedTuple

import numpy as np
from etils import epath

from pneumojax import cache
from pneumojax.data.prepared import SIGNATURE, Prepared, same_pictures, signature
from pneumojax.data.quiet_tensorflow import import_tfds
from pneumojax.data.readers import refuse_unreadable, try_read
from pneumojax.data.records import Source
from pneumojax.data.shards import FILE_FORMAT, open_shards, uncompressed_writer
from pneumojax.data.unreadable import UnreadableImage
from pneumojax.data.workers import CRASHES, Watched, in_parallel, unwatched
from pneumojax.errors import UserError
from pneumojax.files import no_room

FORMAT = 3  # raise it when what is written for the same source changes
INDEX = "index.json"
_SHARDS = "images"  # TFDS's name for the one split that holds all; what is trained on is chosen afterwards


class Means(NamedTuple):
    """By what means a source is prepared; what is written does not depend on it.

    Attributes:
      workers: processes; 0 for one for each core, or threads of this one where there are few images.
      beam_runner: the name of an Apache Beam runner, which then does the work; empty for none.
      beam_options: flags for Beam, as on a command line.
      watched: tells of the reading; see `log.watching`.
    """

    workers: int = 0
    beam_runner: str = ""
    beam_options: str = ""
    watched: Watched = unwatched


HERE = Means()


def prepare(source: Source, *, size: int, cache_dir: str = "", on_error: str = "fail", means: Means = HERE) -> Prepared:
    """The source's images from shards of grey uint8 squares, which are written first where they are missing.

    They lie in a folder named by all that they depend on: the source's fingerprint, ids and labels, and the size.
    The folder gets its name when it is complete, so that a killed preparation is never taken for a whole one.

    Args:
      source: where the images come from; every record has a label.
      size: side of the images in pixels.
      cache_dir: a folder; empty for the user's cache folder.
      on_error: "fail" or "skip", of unreadable images.
      means: how it is done.

    Raises:
      UserError: images are unreadable and `on_error` is "fail"; all of them are counted, the first few named. Or the
        shards are damaged, or Apache Beam is asked for and not installed.
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
        folder.rmtree()  # a disk that was away is back
    _write(source, size, folder, on_error, means)
    return _open(folder)


def folder_of(source: Source, size: int, cache_dir: str) -> epath.Path:
    """Where the shards are, or will be."""
    return cache.folder(cache_dir) / f"{source.name}-{_key(source, size)}"


def _open(folder: epath.Path) -> Prepared:
    try:
        index = json.loads((folder / INDEX).read_text())
        info, examples = open_shards(folder, _SHARDS, "image")
        places = {id: place for place, id in enumerate(index["ids"]) if id not in index["unreadable"]}
        told = {name: index[name] for name in ("unreadable", "identical", "near_equal")}
        read = partial(_read, folder, info.features["image"].shape, examples)
        return Prepared(places, read=read, folder=folder, **told)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged shard makes its readers raise
        raise _damaged(folder) from error


def _damaged(folder) -> UserError:
    return UserError(f"{folder} is damaged: remove it, and it will be written again")


def _read(folder, shape, examples, places):
    try:
        found = examples(np.asarray(places).tolist())
        return np.stack([np.frombuffer(row["image"], np.uint8).reshape(shape) for row in found])
    except Exception as error:  # shards are opened when they are read
        raise _damaged(folder) from error


def _key(source: Source, size: int) -> str:
    members = [record[:2] for record in source.records]
    told = json.dumps([FORMAT, size, source.location, source.fingerprint, members])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _write(source: Source, size: int, folder: epath.Path, on_error: str, means: Means) -> None:
    _remove_abandoned(folder.parent)
    partial_folder = folder.parent / f"{folder.name}{_partial_suffix(os.getpid())}-{uuid.uuid4().hex[:8]}"
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
            if not folder.exists():  # otherwise another process was faster, and wrote the same
                raise
    finally:
        if partial_folder.exists():
            partial_folder.rmtree()


def _build(builder, means: Means) -> None:
    settings = {"try_download_gcs": False} | (_beam_settings(means) if means.beam_runner else {})
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces what it does
            builder.download_and_prepare(download_config=import_tfds().download.DownloadConfig(**settings))
    except Exception as error:
        if full := no_room(error):  # the writer of shards has errors of its own
            raise UserError(f"{full}: make room, or choose another --config.data.cache_dir") from error
        raise


def _beam_settings(means: Means) -> dict:
    beam, said = _import_beam(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = beam.options.pipeline_options.PipelineOptions(shlex.split(means.beam_options))
            options.get_all_options()
            beam.runners.create_runner(means.beam_runner)
    except (Exception, SystemExit) as error:  # its parser prints how it is used, and exits
        told = (said.getvalue().strip().splitlines() or [str(error)])[-1]
        raise UserError(f"Apache Beam cannot be started so: {told}") from error
    return {"beam_runner": means.beam_runner, "beam_options": options}


def _import_beam():
    try:
        import apache_beam
    except ImportError:
        raise UserError("Apache Beam is not installed: pip install -e .[beam]") from None
    return apache_beam


def _partial_suffix(process: int) -> str:
    return f".partial-{socket.gethostname()}-{process}"


def _remove_abandoned(where: epath.Path) -> None:
    """Removes what killed preparations on this machine left."""
    prefix = _partial_suffix(0).removesuffix("0")
    for abandoned in where.glob(f"*{prefix}*"):
        process = abandoned.name.partition(prefix)[2].partition("-")[0]
        # One of this process's own number is of another container, where each is the first.
        if process.isdecimal() and (int(process) == os.getpid() or not _runs(int(process))):
            abandoned.rmtree(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _builder_to(folder, source, size, means):
    tfds = import_tfds()
    read = partial(_example, source._replace(records=()), size)  # records are many, and go to the workers by chunks

    def array(*shape, doc=None):
        encoding = tfds.features.Encoding.BYTES
        return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=encoding, doc=doc)

    class Radiographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Grey radiographs at a model's size."""

        VERSION = tfds.core.Version(f"{FORMAT}.0.0")

        def _info(self):
            info = self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "image": array(size, size, 1),
                        "label": tfds.features.Scalar(np.uint8),
                        "id": tfds.features.Text(),
                        "unreadable": tfds.features.Text(doc="why the image could not be read; it is black then"),
                        "signature": array(SIGNATURE, doc="its SHA-256, perceptual hash and thumbnail"),
                    }
                )
            )
            info.initialize_from_bucket = _nothing  # which leaves a folder behind in any case
            return info

        def _example_writer(self):
            return uncompressed_writer()

        def _split_generators(self, download_manager):
            return {_SHARDS: self._generate_examples(source.records)}

        def _generate_examples(self, records):
            if means.beam_runner:
                beam = _import_beam()
                return beam.Create(records) | beam.Map(read)
            found = in_parallel(read, records, means.workers)
            examples = (
                _blank(size, record, example) if isinstance(example, UnreadableImage) else example
                for record, example in zip(records, found, strict=True)
            )
            return means.watched(examples, len(records))

    return Radiographs(data_dir=folder, file_format=FILE_FORMAT)


def _nothing() -> None:
    pass


def _example(source, size, record):
    """(key, features) of one record."""
    image = try_read(source, size, record)
    if isinstance(image, UnreadableImage):
        return _blank(size, record, image)
    return record.id, {
        "image": image[..., None],
        "label": record.label,
        "id": record.id,
        "unreadable": "",
        "signature": np.frombuffer(signature(image), np.uint8),
    }


def _blank(size, record, reason):
    """(key, features) of a record that cannot be read."""
    return record.id, {
        "image": np.zeros((size, size, 1), np.uint8),
        "label": record.label,
        "id": record.id,
        "unreadable": str(reason),
        "signature": np.zeros(SIGNATURE, np.uint8),
    }


def _index(folder: epath.Path) -> dict:
    """What is known of the shards without reading them all again."""
    info, examples = open_shards(folder, _SHARDS, "id", "unreadable", "signature")
    ids, unreadable, signatures = [], {}, {}
    for row in examples(range(info.splits[_SHARDS].num_examples)):
        ids.append(str(row["id"], "utf-8"))
        if row["unreadable"]:
            unreadable[ids[-1]] = str(row["unreadable"], "utf-8")
        else:
            signatures[ids[-1]] = bytes(row["signature"])
    return {"ids": ids, "unreadable": unreadable} | same_pictures(signatures)
