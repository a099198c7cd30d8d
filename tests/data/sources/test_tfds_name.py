"""A TFDS dataset by name: its own loading code runs, on a file of the same form in place of the one it downloads."""

import socket

import numpy as np
import pytest

from pneumojax.data import phantom
from pneumojax.data.quiet_tensorflow import import_tfds
from pneumojax.data.sources import open_source
from pneumojax.errors import UserError

pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS of Protobuf

SIZES = {"train": 12, "val": 4, "test": 6}


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    """TFDS with a folder of its own, in which downloading pneumonia_mnist gives a drawn file."""
    tfds = import_tfds()
    folder = tmp_path_factory.mktemp("tfds")
    arrays = {}
    for first, (split, count) in enumerate(SIZES.items()):
        labels = np.arange(count) % 3 % 2
        drawn = [phantom.render(0, 100 * first + i, int(label), 28)[0] for i, label in enumerate(labels)]
        arrays |= {f"{split}_images": np.stack(drawn), f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez(folder / "drawn.npz", **arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
        patch.setattr(tfds.download.DownloadManager, "download", lambda self, url: str(folder / "drawn.npz"))
        patch.setattr(socket, "getaddrinfo", lambda *arguments: [])
        yield tfds, arrays, folder


def test_images_and_labels_are_the_datasets(tfds):
    _, arrays, folder = tfds
    source = open_source("tfds:pneumonia_mnist")
    assert (folder / "pneumonia_mnist").is_dir(), "written where it was told to"
    assert {name: sum(r.split == name for r in source.records) for name in SIZES} == SIZES
    found = {r.split: [] for r in source.records}
    for record in source.records:
        found[record.split].append((source.read(record, 28), record.label))
    for split, pairs in found.items():
        # TFDS shuffles what it writes: each image must be there once, with its own label.
        expected = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"][:, 0], strict=True)
        assert sorted((image.tobytes(), label) for image, label in pairs) == sorted(
            (image.tobytes(), int(label)) for image, label in expected
        )
    assert len({record.id for record in source.records}) == len(source.records)
    assert "'Pneumonia' is pneumonia" in source.remarks[0]
    assert (source.name, source.location) == ("tfds_pneumonia_mnist", "tfds:pneumonia_mnist")


def test_the_second_time_needs_no_network(tfds, monkeypatch):
    open_source("tfds:pneumonia_mnist")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(open_source("tfds:pneumonia_mnist").records) == sum(SIZES.values())


def refuse(*arguments):
    raise socket.gaierror(-2, "Name or service not known")


def test_no_network_is_one_line_at_once(tfds, monkeypatch, tmp_path):
    monkeypatch.setattr(tfds[0].core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match="must be downloaded once, from zenodo.org, which is not reached") as told:
        open_source("tfds:pneumonia_mnist")
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pneumonia_mnis", "did you mean pneumonia_mnist?"),
        ("pneumonia_mnist/nothing", "TFDS has no 'pneumonia_mnist/nothing'"),
        ("mnist", "has 1 images and 0 labels of two classes"),
        ("imdb_reviews", "has 0 images and 1 labels of two classes"),
        ("", "no TFDS dataset ''"),
    ],
)
def test_what_is_no_such_dataset(tfds, name, says):
    with pytest.raises(UserError, match=says) as told:
        open_source(f"tfds:{name}")
    assert "\n" not in str(told.value)
