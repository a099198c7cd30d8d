"""A TFDS dataset by name: its own loading code runs, on a file of the same form instead of the one it downloads."""

import socket

import numpy as np
import pytest

from pneumojax.data.sources import open_source, phantom
from pneumojax.data.tensorflow_import import import_tfds
from pneumojax.runtime.errors import UserError

pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")  # TFDS of Protobuf

SIZES = {"train": 12, "val": 4, "test": 6}


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    """Give TFDS a new data folder, and synthetic images instead of the download of pneumonia_mnist."""
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


def test_images_and_labels_are_those_of_the_dataset(tfds):
    _, arrays, folder = tfds
    source = open_source("tfds:pneumonia_mnist")
    assert (folder / "pneumonia_mnist").is_dir(), "TFDS writes into its data folder"
    assert {name: sum(r.split == name for r in source.records) for name in SIZES} == SIZES
    pairs_of = {r.split: [] for r in source.records}
    for record in source.records:
        pairs_of[record.split].append((source.read(record, 28), record.label))
    for split, pairs in pairs_of.items():
        # TFDS shuffles images: each must be there once, with its own label.
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


def test_a_missing_network_is_reported_at_once(tfds, monkeypatch, tmp_path):
    monkeypatch.setattr(tfds[0].core.constants, "DATA_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match="must be downloaded once, but zenodo.org cannot be reached") as caught:
        open_source("tfds:pneumonia_mnist")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pneumonia_mnis", "did you mean pneumonia_mnist?"),
        ("pneumonia_mnist/nothing", "TFDS has no 'pneumonia_mnist/nothing'"),
        ("mnist", "has 1 image and 0 labels of two classes"),
        ("imdb_reviews", "has 0 images and 1 label of two classes"),
        ("", "no TFDS dataset ''"),
    ],
)
def test_other_datasets_are_refused(tfds, name, says):
    with pytest.raises(UserError, match=says) as caught:
        open_source(f"tfds:{name}")
    assert "\n" not in str(caught.value)
