"""Every example of a shard is read as TFDS itself reads it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from etils import epath

from pneumojax.data.store.shards import FILE_FORMAT, open_shards, uncompressed_writer
from pneumojax.data.tensorflow_import import import_tfds

EXAMPLES = 50


@pytest.fixture(scope="module", params=["compressed", "uncompressed"])
def builder(request, tmp_path_factory):
    """Write 50 examples into three shards, and return their builder."""
    tfds = import_tfds()

    class Noise(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "pneumojax.data.store.builder"  # TFDS looks for a description beside it
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Tensor(shape=(9, 7, 1), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
            features = {"image": image, "id": tfds.features.Text(), "label": tfds.features.Scalar(np.uint8)}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _example_writer(self):
            return uncompressed_writer() if request.param == "uncompressed" else super()._example_writer()

        def _split_generators(self, download_manager):
            return {"images": self._generate_examples()}

        def _generate_examples(self):
            rng = np.random.default_rng(0)
            for number in range(EXAMPLES):
                image = rng.integers(0, 256, (9, 7, 1), np.uint8)
                yield number, {"image": image, "id": f"brüst {number}", "label": number % 2}

    builder = Noise(data_dir=tmp_path_factory.mktemp("shards"), file_format=FILE_FORMAT)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3, try_download_gcs=False))
    assert len(builder.info.splits["images"].shard_lengths) == 3
    return builder


@pytest.mark.parametrize("places", [range(EXAMPLES), [49, 0, 0, 17, 16, 33], []], ids=["all", "some", "none"])
def test_each_place_has_the_example_that_tfds_reads_there(builder, places):
    info, examples = open_shards(epath.Path(builder.data_path), "images", "image", "id")
    expected = builder.as_data_source("images")
    rows = list(examples(places))
    assert len(rows) == len(places)
    for row, place in zip(rows, places, strict=True):
        assert set(row) == {"image", "id"}
        assert bytes(row["id"]) == expected[place]["id"]
        image = np.frombuffer(row["image"], np.uint8).reshape(info.features["image"].shape)
        np.testing.assert_array_equal(image, expected[place]["image"])


def test_many_threads_read_at_once(builder):
    """The tf.data feed reads like this."""
    _, examples = open_shards(epath.Path(builder.data_path), "images", "id")
    whole = [row["id"] for row in examples(range(EXAMPLES))]
    orders = np.random.default_rng(1).permuted(np.tile(np.arange(EXAMPLES), (40, 1)), axis=1).tolist()
    with ThreadPoolExecutor(8) as pool:
        for order, rows in zip(orders, pool.map(lambda order: list(examples(order)), orders), strict=True):
            assert [row["id"] for row in rows] == [whole[place] for place in order]


def test_a_place_beyond_the_last_is_an_error(builder):
    _, examples = open_shards(epath.Path(builder.data_path), "images", "id")
    with pytest.raises(IndexError):
        list(examples([EXAMPLES]))
