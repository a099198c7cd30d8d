"""Prepares a source once: a TFDS builder writes every image, grey and at the model's size, into shards."""

import contextlib
import hashlib
import io
import json
import os
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from pneumojax.data.quiet_tensorflow import import_tfds
from pneumojax.data.readers import Split, refuse_unreadable, try_read
from pneumojax.data.records import Source
from pneumojax.data.splits import Splits
from pneumojax.errors import UserError

FORMAT = 1  # raise it when what is written for the same source changes
INDEX = "index.json"
_CHUNK = 256  # images decoded before the next are handed to the threads


def prepared_splits(source: Source, splits: Splits, *, size: int, cache_dir: str) -> dict[str, Split]:
    """The splits, read from shards of grey uint8 images, which are written first where they are missing.

    They lie in a folder named by all that they depend on: the source's fingerprint, the size, and which
    record is in which split. The folder gets its name when it is complete, so that a killed preparation is
    never taken for a whole one.

    Args:
      source: where the images come from.
      splits: the records of each split.
      size: side of the images in pixels.
      cache_dir: a folder; empty for the user's cache folder.

    Raises:
      UserError: images are unreadable; all of them are counted, the first few named.
    """
    cache = epath.Path(cache_dir or _user_cache()).expanduser()
    folder = cache / f"{source.name}-{_key(source, splits, size)}"
    if not folder.exists():
        _prepare(source, splits, size, folder)
    tfds = import_tfds()
    try:
        index = json.loads((folder / INDEX).read_text())
        builder = tfds.builder_from_directory(folder)
        return {name: _open(builder, name, index[name]) for name in splits}
    except Exception as error:  # whatever a damaged shard makes its readers raise
        raise UserError(f"{folder} is damaged: remove it, and it will be written again") from error


def _user_cache() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "pneumojax")


def _key(source: Source, splits: Splits, size: int) -> str:
    members = {name: [record[:3] for record in splits[name]] for name in sorted(splits)}
    told = json.dumps([FORMAT, size, source.location, source.fingerprint, members])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _prepare(source: Source, splits: Splits, size: int, folder: epath.Path) -> None:
    _remove_abandoned(folder.parent)
    partial = folder.parent / f"{folder.name}{_partial_suffix(os.getpid())}-{uuid.uuid4().hex[:8]}"
    failures = []
    try:
        builder = _builder_to(partial, source, splits, size, failures)
        _write_shards(builder, failures)
        (builder.data_path / INDEX).write_text(json.dumps({name: _index(builder, name) for name in splits}))
        try:
            builder.data_path.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster, and wrote the same
                raise
    finally:
        if partial.exists():
            partial.rmtree()


def _write_shards(builder, failures) -> None:
    downloads = import_tfds().download.DownloadConfig(try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces what it does
            builder.download_and_prepare(download_config=downloads)
    except Exception:
        refuse_unreadable(failures)  # TFDS stumbles over a split of which nothing is left
        raise
    refuse_unreadable(failures)


def _partial_suffix(process: int) -> str:
    return f".partial-{socket.gethostname()}-{process}"


def _remove_abandoned(cache: epath.Path) -> None:
    """Removes what killed preparations on this machine left."""
    prefix = _partial_suffix(0).removesuffix("0")
    for partial in cache.glob(f"*{prefix}*"):
        process = partial.name.partition(prefix)[2].partition("-")[0]
        if process.isdecimal() and not _runs(int(process)):
            partial.rmtree(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _builder_to(folder, source, splits, size, failures):
    tfds = import_tfds()

    class Radiographs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Grey radiographs at a model's size."""

        VERSION = tfds.core.Version(f"{FORMAT}.0.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Tensor(
                            shape=(size, size, 1), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
                        ),
                        "label": tfds.features.Scalar(np.uint8),
                        "id": tfds.features.Text(),
                        "patient": tfds.features.Text(),
                    }
                )
            )

        def _split_generators(self, download_manager):
            return {name: self._generate_examples(records) for name, records in splits.items()}

        def _generate_examples(self, records):
            with ThreadPoolExecutor() as pool:
                for start in range(0, len(records), _CHUNK):
                    chunk = records[start : start + _CHUNK]
                    decoded = pool.map(lambda record: try_read(source, record, size), chunk)
                    for record, image in zip(chunk, decoded, strict=True):
                        if isinstance(image, Exception):
                            failures.append((record, image))
                            continue
                        yield (
                            record.id,
                            {
                                "image": image[..., None],
                                "label": record.label,
                                "id": record.id,
                                "patient": record.patient,
                            },
                        )

    return Radiographs(data_dir=folder, file_format="array_record")


def _index(builder, name) -> dict[str, list]:
    """Ids and labels in the order of the shards."""
    rows = [(row["id"].decode(), int(row["label"])) for row in builder.as_data_source(name)]
    return {"ids": [id for id, _ in rows], "labels": [label for _, label in rows]}


def _open(builder, name, index) -> Split:
    shards = builder.as_data_source(name)
    return Split(
        name,
        np.array(index["ids"]),
        np.array(index["labels"], np.uint8),
        lambda indices: np.stack([row["image"] for row in shards.__getitems__(np.asarray(indices).tolist())]),
    )
