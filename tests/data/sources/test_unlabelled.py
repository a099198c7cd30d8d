"""Images to predict: which ones, in which order, and with which flags."""

import os
import pickle
import shutil
from pathlib import Path

import dicom_files
import numpy as np
import pytest
from PIL import Image

from pneumojax.data.sources import phantom
from pneumojax.data.sources.unlabelled import Seen, open_inputs
from pneumojax.runtime.errors import UserError

SIZE = 32


def chest(index, label=0, side=160):
    return Image.fromarray(phantom.render(5, index, label, side)[0])


def put(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def look(path) -> Seen:
    """Read and check the one image at `path`."""
    inputs = open_inputs(str(path))
    [id] = inputs.ids
    return inputs.look(id, SIZE)


@pytest.fixture
def folder(tmp_path):
    """A folder with images at several depths, and with other files."""
    root = tmp_path / "some chests"
    for name in ("b.png", "a.JPG", "c.jpeg", "s/2.dcm", "s/10.png", "s/t/z.DICOM", "r/x.png", "named.png/i.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in (".b.png", "._a.JPG", ".trash/y.png", "s/.t/y.png", "__MACOSX/s/10.png", "labels.csv", "s/e.nii", "x"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "nothing").mkdir()
    return root


def below(folder, inputs):
    return [str(Path(id).relative_to(folder)) for id in inputs.ids]


def test_a_file_is_one_image(folder):
    inputs = open_inputs(str(folder / "a.JPG"))
    assert (inputs.name, list(inputs.ids)) == ("a.JPG", [str(folder / "a.JPG")])


def test_a_folder_gives_all_images_below_in_order_of_their_names(folder):
    inputs = open_inputs(str(folder))
    assert inputs.name == "some_chests"
    assert below(folder, inputs) == [
        "a.JPG", "b.png", "c.jpeg", "named.png/i.png", "r/x.png", "s/10.png", "s/2.dcm", "s/t/z.DICOM"
    ]  # fmt: skip


def test_files_that_are_left_out_are_counted_while_ids_are_read(folder):
    (folder / "masks").mkdir()
    (folder / "masks" / "b.png").touch()
    (folder / "s" / "IM000001").write_bytes(b"\0" * 128 + b"DICM")
    inputs = open_inputs(str(folder))
    assert "s/IM000001" in below(folder, inputs)
    assert inputs.left_out.remarks() == [
        "3 other files are left out, such as labels.csv.", "1 mask is left out, such as masks/b.png."
    ]  # fmt: skip
    for location in (folder / "b.png", folder / "s/*"):
        inputs = open_inputs(str(location))
        assert list(inputs.ids) and not inputs.left_out.remarks(), "a file that is named is no other file"


def test_a_folder_of_other_files_names_one(folder):
    (folder / "nothing" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"no image at .* \(1 other file is left out, such as notes.txt\): give a file"):
        open_inputs(str(folder / "nothing"))


def test_a_hidden_folder_may_be_chosen(folder):
    assert below(folder, open_inputs(str(folder / ".trash"))) == [".trash/y.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["b.png"]),
        ("s/*", ["s/10.png", "s/2.dcm", "s/e.nii"]),
        ("?/*.png", ["r/x.png", "s/10.png"]),
        ("[ab].*", ["a.JPG", "b.png"]),
        ("**/*.png", ["b.png", "named.png/i.png", "r/x.png", "s/10.png"]),
        (".*.png", [".b.png"]),
    ],
)
def test_a_pattern_gives_every_file_that_it_matches(folder, pattern, expected):
    """Files with any suffix, and no folders."""
    assert [name for name in below(folder, open_inputs(str(folder / pattern))) if "MACOSX" not in name] == expected


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    for name in ("chest [1].png", "chest 1.png"):
        (tmp_path / name).touch()
    assert list(open_inputs(str(tmp_path / "chest [1].png")).ids) == [str(tmp_path / "chest [1].png")]


def test_ids_are_paths_as_the_user_gave_them(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / "s"))
    assert list(open_inputs("r").ids) == ["r/x.png"]
    assert list(open_inputs("r/*").ids) == ["r/x.png"]
    assert list(open_inputs("~/10.png").ids) == [str(folder / "s/10.png")]
    assert open_inputs(".").name == "some_chests"


@pytest.mark.parametrize("location", ["", "gone.png", "gone/*.png", "some chests/nothing", "*.nii", "gone.npz", "*"])
def test_a_location_without_images_is_refused(folder, monkeypatch, location):
    """A pattern that matches only folders has no images."""
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UserError, match="^no image at ") as caught:
        open_inputs(location)
    assert repr(location) in str(caught.value)


def drawn(first, count):
    return np.stack([phantom.render(5, first + number, number % 2, 40)[0] for number in range(count)])


def test_an_npz_gives_its_images_by_their_places(tmp_path):
    path = tmp_path / "drawn here.NPZ"
    pictures = {"test": drawn(10, 2), "train": drawn(20, 3)}
    pictures["train"][1] = 90
    pictures["train"][2] = 255 - pictures["train"][2]
    with path.open("wb") as file:
        arrays = {f"{split}_images": images for split, images in pictures.items()}
        np.savez(file, **arrays, test_labels=np.array([0, 1]), train_labels=np.array([[0], [1], [0]]))
    inputs = open_inputs(str(path))
    ids = list(inputs.ids)
    assert inputs.name == "drawn_here"
    assert ids == ["test/00000", "test/00001", "train/00000", "train/00001", "train/00002"]
    seen = [inputs.look(id, SIZE) for id in ids]
    assert [image.flags for image in seen] == [(), (), (), ("constant",), ("inverted",)]
    for image, pixels in zip(seen, [*pictures["test"], *pictures["train"]], strict=True):
        expected = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image.image, np.asarray(expected))


def test_the_name_of_an_npz_is_no_folder(tmp_path):
    """Without its suffix, it would be the folder around that of the results."""
    np.savez(tmp_path / "...npz", test_images=drawn(10, 1))
    assert open_inputs(str(tmp_path / "...npz")).name == "data"


def test_an_npz_needs_no_labels(tmp_path):
    """Images to predict seldom have any, and wrong ones do not matter."""
    images = np.stack([np.asarray(chest(i, side=40)) for i in range(3)])
    np.savez(tmp_path / "bare.npz", test_images=images)
    np.savez(tmp_path / "odd.npz", test_images=images, test_labels=np.array(["a", "b", "c"]))
    for name in ("bare", "odd"):
        assert list(open_inputs(str(tmp_path / f"{name}.npz")).ids) == ["test/00000", "test/00001", "test/00002"]
    np.savez(tmp_path / "none.npz", test_labels=np.array([0]))
    with pytest.raises(UserError, match="has no train_images"):
        open_inputs(str(tmp_path / "none.npz"))


def test_an_npz_that_changed_is_unreadable(tmp_path):
    path = tmp_path / "drawn.npz"
    np.savez(path, test_images=drawn(10, 2), test_labels=np.array([0, 1]))
    inputs = open_inputs(str(path))
    os.utime(path, ns=(1, 1))
    image, problem, flags = inputs.look(next(inputs.ids), SIZE)
    assert (image, flags) == (None, ())
    assert "has changed" in problem


def test_a_damaged_npz_is_refused(tmp_path):
    (tmp_path / "drawn.npz").write_bytes(b"PK no archive")
    with pytest.raises(UserError, match="cannot be read as NPZ"):
        open_inputs(str(tmp_path / "drawn.npz"))


def test_look_can_be_sent_to_another_process(tmp_path):
    path = put(tmp_path / "a.png", chest(0, side=40))
    np.savez(tmp_path / "a.npz", test_images=np.asarray(chest(0, side=40))[None], test_labels=np.array([0]))
    for location in (path, tmp_path / "a.npz"):
        inputs = open_inputs(str(location))
        sent = pickle.loads(pickle.dumps(inputs.look))
        [id] = inputs.ids
        expected = chest(0, side=40).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(sent(id, SIZE).image, np.asarray(expected))


@pytest.mark.parametrize("label", [0, 1])
def test_a_sound_image_has_no_flags(tmp_path, label):
    for number in range(5):
        seen = look(put(tmp_path / f"{number}.png", chest(number, label)))
        assert (seen.problem, seen.flags) == ("", ())
        expected = chest(number, label).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(seen.image, np.asarray(expected))


def reddish(image):
    return Image.merge("RGB", [image, image.point(lambda value: value // 2), image.point(lambda value: value // 3)])


@pytest.mark.parametrize(
    ("image", "flags"),
    [
        (chest(0).resize((20, 200)), ("size",)),
        (chest(0).resize((500, 100)), ("size",)),
        (chest(0).resize((400, 100)), ()),
        (reddish(chest(0)), ("colour",)),
        (chest(0).convert("RGB"), ()),
        (Image.new("L", (100, 100), 90), ("constant",)),
        (chest(0).point(lambda value: 255 - value), ("inverted",)),
        (reddish(chest(0).point(lambda value: 255 - value)), ("colour", "inverted")),
        (Image.new("RGB", (20, 200), (200, 30, 30)), ("size", "colour", "constant")),
    ],
    ids=["thin", "wide", "less wide", "red", "grey as RGB", "uniform", "inverse", "red inverse", "small red square"],
)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_doubtful_image_is_flagged_and_read(tmp_path, image, flags, suffix):
    seen = look(put(tmp_path / f"chest.{suffix}", image))
    assert (seen.problem, seen.flags) == ("", flags)
    assert (seen.image.shape, seen.image.dtype) == ((SIZE, SIZE), np.uint8)


def sixteen_bits(brightest):
    """Make 12 bits in 16, with one pixel that is brighter."""
    wide = np.asarray(chest(0)).astype(np.uint16) * 16
    wide[0, 0] = brightest
    return Image.fromarray(wide)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("brightest", "flags"), [(4095, ()), (20_000, ("dark",)), (9_000, ("dark",)), (65_535, ())])
def test_sixteen_bits_whose_range_one_pixel_sets_are_flagged(tmp_path, suffix, brightest, flags):
    """Where a pixel has all 16 bits, there is no guess."""
    seen = look(put(tmp_path / f"chest.{suffix}", sixteen_bits(brightest)))
    assert (seen.problem, [flag for flag in seen.flags if flag != "constant"]) == ("", list(flags))


@pytest.mark.parametrize(("pixels", "flags"), [(0, ()), (1, ()), (100, ("clipped",))])
def test_a_marker_far_brighter_than_the_film_is_flagged(tmp_path, pixels, flags):
    """One dead pixel shows nothing that was not there."""
    film = np.asarray(chest(0)).astype(np.uint16) * 16
    film.ravel()[:pixels] = 16_000
    assert look(dicom_files.write(tmp_path / "x.dcm", film, 14)).flags == flags
    window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    assert look(dicom_files.write(tmp_path / "x.dcm", film, 14, **window)).flags == ()


def test_a_lateral_film_is_flagged(tmp_path):
    for view, flags in (("LL", ("lateral",)), ("PA", ())):
        path = dicom_files.write(tmp_path / "x.dcm", np.asarray(chest(0)), 8, ViewPosition=view)
        assert look(path).flags == flags


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut short", ""),
        ("empty", "the file is empty"),
        ("text", "neither JPEG, PNG, TIFF, BMP, WebP nor DICOM"),
        ("link to nowhere", "No such file"),
        ("pipe", "a pipe or a device"),
    ],
)
def test_an_unreadable_image_has_a_reason_and_no_flags(tmp_path, kind, says):
    """Its header may even declare an implausible size."""
    path = tmp_path / "chest.png"
    if kind == "cut short":
        whole = put(path, chest(0).resize((20, 200))).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "link to nowhere":
        path.symlink_to(tmp_path / "nowhere.png")
    else:
        os.mkfifo(path)
    inputs = open_inputs(str(tmp_path))
    [id] = inputs.ids
    image, problem, flags = inputs.look(id, SIZE)
    assert (id, image, flags) == (str(path), None, ())
    assert len(problem.splitlines()) == 1
    assert says in problem


def test_a_file_without_suffix_is_read_if_it_is_named(tmp_path):
    """Some systems store images by number; within a folder, a file without suffix could be anything."""
    put(tmp_path / "chest.png", chest(3))
    shutil.copy(tmp_path / "chest.png", tmp_path / "IM000123")
    np.testing.assert_array_equal(look(tmp_path / "IM000123").image, look(tmp_path / "chest.png").image)
    np.testing.assert_array_equal(look(tmp_path / "IM*").image, look(tmp_path / "chest.png").image)
    assert list(open_inputs(str(tmp_path)).ids) == [str(tmp_path / "chest.png")]
