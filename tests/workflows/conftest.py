"""Sources and runs that the tests of several workflows share."""

import shutil

import jax
import numpy as np
import pytest
from etils import epath
from support import draw

from pneumojax.data.sources import phantom
from pneumojax.runtime import config as configs
from pneumojax.runtime import sharding
from pneumojax.workflows import train


@pytest.fixture
def one_device(monkeypatch):
    """Compute on one device: compiling for eight takes long, and their number makes no difference here."""
    layout = sharding.layout
    monkeypatch.setattr(sharding, "layout", lambda devices=None: layout(devices or jax.devices()[:1]))


@pytest.fixture
def start_run(monkeypatch):
    """A function that does what `train_and_evaluate` does, up to the first training step."""

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    def start_run(config, workdir):
        with monkeypatch.context() as patch:
            patch.setattr(train, "train", interrupt)
            with pytest.raises(KeyboardInterrupt):
                train.train_and_evaluate(config, workdir)

    return start_run


@pytest.fixture(scope="session")
def complete(finished):
    """A function that copies a complete run on `chests` into a folder, and returns its config and workdir."""

    def copy(folder):
        work = epath.Path(shutil.copytree(finished[0] / "work", folder / "work"))
        config = configs.read(work / "config.json")
        return configs.with_fields(config, {"data.cache_dir": str(finished[0] / "cache")}), work

    return copy


@pytest.fixture(scope="session")
def chexpert(tmp_path_factory):
    """CheXpert's layout: 60 patients in train, 8 in valid; for a third of them, pneumonia is uncertain."""
    root = tmp_path_factory.mktemp("data") / "CheXpert-v1.0-small"
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia"
    for split, first, patients in (("train", 1, 60), ("valid", 64541, 8)):
        lines = [header]
        for patient in range(first, first + patients):
            kind = patient % 3
            path = f"{split}/patient{patient:05d}/study1/view1_frontal.jpg"
            draw(root / path, int(kind != 0), patient)
            labels = ("1.0,", ",1.0", ",-1.0")[kind]
            lines.append(f"{root.name}/{path},Female,50,Frontal,AP,{labels}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    """MedMNIST's layout: 60 images of 28 pixels in train, 12 in test."""
    path = tmp_path_factory.mktemp("data") / "drawn_28.npz"
    arrays = {}
    for number, (split, count) in enumerate((("train", 60), ("test", 12))):
        labels = np.arange(count) % 2
        images = [phantom.render(6, 1000 * number + i, int(label), 28)[0] for i, label in enumerate(labels)]
        arrays |= {f"{split}_images": np.stack(images), f"{split}_labels": labels[:, None]}
    np.savez_compressed(path, **arrays)
    return path


@pytest.fixture(scope="session")
def draw_rsna():
    """A function that writes `count` DICOM files in RSNA's layout, with identifiers of patients in their headers."""
    return _draw_rsna


def _draw_rsna(root, count):
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    lines = ["patientId,x,y,width,height,Target"]
    for number in range(count):
        label, name = number % 2, f"{number:08d}-aaaa"
        image = phantom.render(8, number, label, 64)[0]
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
        dataset.PatientID, dataset.PatientName, dataset.Modality = f"SECRET{number}", "Doe^Secret", "CR"
        dataset.Rows, dataset.Columns = image.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.PixelData = image.tobytes()
        path = root / "stage_2_train_images" / f"{name}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        lines += [f"{name},10,20,30,40,1"] * 2 if label else [f"{name},,,,,0"]
    (root / "stage_2_train_labels.csv").write_text("\n".join(lines) + "\n")
