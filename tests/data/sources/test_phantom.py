"""Synthetic radiographs: pure functions of their arguments, true to the label, of the documented sizes and shares."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from pneumojax.data.sources import phantom

SIZE = 64  # px; large enough for ribs and lesions, and quick


@pytest.fixture(scope="module")
def patients():
    """Draw 60 patients without and with the lesion, and the masks."""
    pairs = [(phantom.render(3, i, 0, SIZE), phantom.render(3, i, 1, SIZE)) for i in range(60)]
    normal, sick = zip(*pairs, strict=True)
    return np.array([n[0] for n in normal]), np.array([s[0] for s in sick]), np.array([s[1] for s in sick])


@pytest.fixture(scope="module")
def splits():
    def draw(cases):
        pairs = [phantom.render(0, index, label, 28) for index, label in cases]
        return *(np.array(arrays) for arrays in zip(*pairs, strict=True)), np.array([label for _, label in cases])

    return {name: draw(phantom.cases(name)) for name in phantom.PHANTOM_SPLITS}


def test_render_depends_on_its_arguments_alone():
    first = phantom.render(1, 7, 1, SIZE)
    np.random.default_rng(0).random()
    phantom.render(1, 8, 0, SIZE)
    again = phantom.render(1, 7, 1, SIZE)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in [(1, 8, 1), (2, 7, 1)]:
        assert np.mean(first[0] != phantom.render(*other, SIZE)[0]) > 0.3


def test_the_label_adds_a_lesion_and_nothing_else(patients):
    normal, sick, masks = patients
    change = sick.astype(int) - normal
    for difference, mask in zip(change, masks, strict=True):
        # Outside the mask are the faint rest of a soft edge, and the pixels that the blur reaches.
        reach = ndimage.binary_dilation(mask, iterations=2)
        assert difference[mask].mean() > 4
        assert np.abs(difference[~reach]).mean() < 0.1 * difference[mask].mean()
    # Corners hold no lung, and the noise does not depend on the label: they agree to the bit.
    for rows in (slice(0, 4), slice(-4, None)):
        for columns in (slice(0, 4), slice(-4, None)):
            np.testing.assert_array_equal(normal[:, rows, columns], sick[:, rows, columns])


def test_lesions_are_in_the_lungs(patients):
    normal, _, masks = patients
    share = masks.mean((1, 2))
    assert share.min() > 0.004
    assert share.max() < 0.35
    assert np.ptp(share) > 0.05, "lesions should vary in size"
    # Lung is darker than the tissue about it: compare within the trunk's rows and columns.
    trunk = np.zeros((SIZE, SIZE), bool)
    trunk[SIZE // 5 : -SIZE // 5, SIZE // 5 : -SIZE // 5] = True
    darker = [im[mask].mean() < im[trunk & ~mask].mean() for im, mask in zip(normal, masks, strict=True)]
    assert np.mean(darker) > 0.8
    edge = SIZE // 20
    assert not masks[:, :edge].any()
    assert not masks[:, -edge:].any()


def test_lesions_vary_in_place_and_strength(patients):
    normal, sick, masks = patients
    left = masks[:, :, : SIZE // 2].sum((1, 2)) > masks[:, :, SIZE // 2 :].sum((1, 2))
    assert 0.2 < left.mean() < 0.8
    added = [(s.astype(int) - n)[m].mean() for n, s, m in zip(normal, sick, masks, strict=True)]
    assert np.percentile(added, 90) > 1.5 * np.percentile(added, 10)


def test_brightness_does_not_separate_the_classes(splits):
    images, _, labels = splits["test"]
    for feature in (images.mean((1, 2)), images.std((1, 2)), images[:, 7:21, 5:23].mean((1, 2))):
        above = np.mean(feature[labels == 1][:, None] > feature[labels == 0][None, :])
        assert 0.25 < above < 0.75


@pytest.mark.parametrize("size", [phantom.MIN_SIZE, 28, 150])
def test_images_of_every_size_have_the_right_form(size):
    for label in (0, 1):
        image, mask = phantom.render(0, 5, label, size)
        assert image.shape == mask.shape == (size, size)
        assert (image.dtype, mask.dtype) == (np.uint8, np.bool_)
        assert image.std() > 20
        assert mask.any() == bool(label)


def test_a_patient_is_the_same_at_every_size():
    small, large = (phantom.render(0, 3, 1, size) for size in (50, 150))
    shrunk = large[0].reshape(50, 3, 50, 3).mean((1, 3))
    assert np.corrcoef(shrunk.ravel(), small[0].ravel())[0, 1] > 0.97
    both = small[1] & (large[1].reshape(50, 3, 50, 3).mean((1, 3)) > 0.5)
    assert both.sum() > 0.7 * small[1].sum()


def test_splits_have_the_documented_sizes(splits):
    assert phantom.PHANTOM_SPLITS == {"train": (300, 210), "val": (100, 50), "test": (400, 250)}
    for name, (count, positives) in phantom.PHANTOM_SPLITS.items():
        images, masks, labels = splits[name]
        assert images.shape == masks.shape == (count, 28, 28)
        assert labels.shape == (count,)
        assert labels.sum() == positives
        np.testing.assert_array_equal(masks.any((1, 2)), labels == 1)
        halves = labels[: count // 2].mean(), labels[count // 2 :].mean()
        assert abs(halves[0] - halves[1]) < 0.03, "the order should mix the classes"


def test_no_two_images_are_the_same(splits):
    everything = [image.tobytes() for images, _, _ in splits.values() for image in images]
    assert len(set(everything)) == len(everything) == 800


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((0, 0, 2), "label"), ((0, 0, 1, 8), "size"), ((-1, 0, 1), "negative"), ((0, -1, 1), "negative")],
)
def test_meaningless_arguments_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        phantom.render(*arguments)


def fingerprint(path):
    """Return the fingerprint of the data set drawn by a copy of the module at `path`."""
    spec = importlib.util.spec_from_file_location("phantom_copy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.open_phantom().fingerprint


def test_the_fingerprint_follows_the_code_and_not_its_time(tmp_path):
    """Shards of phantoms stay valid after a new checkout, and not after a change of the formulas."""
    copy = Path(shutil.copy(phantom.__file__, tmp_path / "phantom_copy.py"))
    assert fingerprint(copy) == phantom.open_phantom().fingerprint
    os.utime(copy, ns=(0, 1))
    assert fingerprint(copy) == phantom.open_phantom().fingerprint
    copy.write_text(copy.read_text().replace("BLUR = 0.0045", "BLUR = 0.0046"))
    assert fingerprint(copy) != phantom.open_phantom().fingerprint
