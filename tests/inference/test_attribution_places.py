"""Where attributions lie: fields of lungs on phantoms, and maps whose shares are known."""

import numpy as np
import pytest
from etils import epath

from pneumojax.data.source import SITE, Split
from pneumojax.data.sources import phantom
from pneumojax.inference import attribution_places


@pytest.mark.parametrize("size", [64, 150])
def test_the_field_has_the_lesions_and_not_the_borders(size):
    """A lesion lies in a lung, and is as bright as what is not lung."""
    inside, outside = [], []
    for number in range(30):
        image, lesion = phantom.render(4, number, 1, size)
        field = attribution_places.lung_field(image)
        inside.append(field[lesion].mean())
        outside.append(field[attribution_places.regions(field)["corners"]].mean())
        assert 0.2 < field.mean() < 0.7
    assert np.mean(inside) > 0.9
    assert np.mean(outside) < 0.1


def test_shares_by_hand():
    """All evidence in a corner; then half of it, against pneumonia, in the middle of a lung."""
    field = np.zeros((100, 100), bool)
    field[20:70, 15:45] = field[20:70, 55:85] = True
    evidence = np.zeros((100, 100))
    evidence[2, 3] = 1.0
    assert attribution_places.shares(evidence, field) == {
        "outside_lungs": 1, "below": 0, "borders": 1, "corners": 1
    }  # fmt: skip
    evidence[40, 30] = -1.0
    assert attribution_places.shares(evidence, field) == {
        "outside_lungs": 0.5, "below": 0, "borders": 0.5, "corners": 0.5
    }  # fmt: skip
    evidence[:] = 0
    evidence[75, 30] = 2.0  # below the right lung
    assert attribution_places.shares(evidence, field)["below"] == 1
    assert set(attribution_places.shares(np.zeros((100, 100)), field).values()) == {0}


def test_errors_and_correct_predictions_of_each_site(tmp_path):
    """The map has all evidence at the top where the image's first pixel is white, else in the middle of a lung."""
    labels = np.array([0, 0, 1, 1, 0, 1])
    images = np.stack([phantom.render(4, number, 0, 48)[0] for number in range(6)])
    images[[0, 2], 0, 0] = 255
    sites = np.array(["a", "a", "a", "b", "b", "b"])
    split = Split("test", np.arange(6).astype(str), labels, lambda indices: images[indices][..., None],
                  groups={SITE: sites})  # fmt: skip
    probabilities = np.array([0.9, 0.1, 0.2, 0.9, 0.2, 0.8])  # wrong: images 0 and 2, both of site a

    def explain(image):
        evidence = np.zeros(image.shape)
        evidence[(0, 24) if image[0, 0] == 255 else (22, 14)] = 1
        return evidence

    found = attribution_places.measure({"scores": (labels, probabilities), "threshold": 0.5}, split, explain)
    assert [(one["site"], one["what"], one["images"]) for one in found] == [
        ("a", "errors", 2), ("a", "correct", 1), ("b", "correct", 3)
    ]  # fmt: skip
    assert [one["shares"]["borders"] for one in found] == [1, 0, 0]
    assert [one["shares"]["outside_lungs"] for one in found] == [1, 0, 0]
    assert all(0.2 < one["area"]["borders"] < 0.4 for one in found)
    workdir = epath.Path(tmp_path)
    attribution_places.write(workdir, "test", found, "integrated-gradients")
    assert attribution_places.read(workdir) == {"test": found}
    assert [row[:3] for row in attribution_places.rows(found)][0] == ("a", "errors", "2")
    (tmp_path / "explanations/places-other.json").write_text("[]")
    assert list(attribution_places.read(workdir)) == ["test"]
