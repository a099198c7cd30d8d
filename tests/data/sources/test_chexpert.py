"""CheXpert's CSVs, as released and damaged; the counts of labels are the published ones."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from pneumojax.data.decode.images import UnreadableImage
from pneumojax.data.source import DEFAULTS, Options, Record
from pneumojax.data.sources import open_source, phantom
from pneumojax.data.sources.chexpert import open_chexpert, parse
from pneumojax.runtime.errors import UserError

FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{FINDINGS}"
RULES = ("abnormal", "pneumonia-ones", "pneumonia-zeros", "pneumonia-ignore")
# A row of each kind: No Finding, Pneumonia, view; and its label by each of RULES, None if it is left out.
KINDS = {
    "train/patient00001/study1/view1_frontal.jpg": ("1.0", "", "Frontal", (0, 0, 0, 0)),
    "train/patient00001/study2/view1_frontal.jpg": ("", "1.0", "Frontal", (1, 1, 1, 1)),
    "train/patient00002/study1/view1_frontal.jpg": ("", "-1.0", "Frontal", (1, 1, 0, None)),
    "train/patient00002/study1/view2_lateral.jpg": ("", "-1.0", "Lateral", (1, 1, 0, None)),
    "train/patient00003/study1/view1_frontal.jpg": ("", "0.0", "Frontal", (1, 0, 0, 0)),
    "train/patient00004/study1/view1_frontal.jpg": ("", "", "Frontal", (1, 0, 0, 0)),
    "valid/patient64541/study1/view1_frontal.jpg": ("0.0", "1.0", "Frontal", (1, 1, 1, 1)),
    "valid/patient64542/study1/view1_lateral.jpg": ("1.0", "0.0", "Lateral", (0, 0, 0, 0)),
}


def row(path, no_finding="", pneumonia="", view="Frontal"):
    return f"{path},Female,68,{view},AP,{no_finding},,,1.0,,,0.0,{pneumonia},,,-1.0,,,1.0"


def table(rows):
    """Format {path: (no finding, pneumonia, view, ...)} as a CSV, in bytes."""
    lines = [HEADER, *(row(f"CheXpert-v1.0-small/{path}", *rows[path][:3]) for path in reversed(rows))]
    return ("\n".join(lines) + "\n").encode()


def put(root, name, content, *paths):
    """Write a CSV, and files that only look like images: opening a source decodes none."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"\xff\xd8\xff")


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "my CheXpert"
    for name, folder in (("train.csv", "train"), ("valid.csv", "valid")):
        rows = {path: kind for path, kind in KINDS.items() if path.startswith(folder)}
        put(root, name, table(rows), *rows)
    return root


def labels(root, rule="abnormal", views="all"):
    return {record.id: record.label for record in open_chexpert(root, Options(rule, views)).records}


def refusal(root, options=DEFAULTS):
    with pytest.raises(UserError) as caught:
        open_chexpert(root, options)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_labels_each_kind_of_row(tree, rule):
    at = RULES.index(rule)
    assert labels(tree, rule) == {path: kind[3][at] for path, kind in KINDS.items() if kind[3][at] is not None}


def test_records_have_split_and_patient_in_order_of_id(tree):
    source = open_chexpert(tree, DEFAULTS)
    assert [record.id for record in source.records] == sorted(KINDS)
    assert source.records[1] == Record("train/patient00001/study2/view1_frontal.jpg", 1, "patient00001", "train")
    assert source.records[-1] == Record("valid/patient64542/study1/view1_lateral.jpg", 0, "patient64542", "val")
    assert (source.name, source.location, source.root) == ("my_CheXpert", str(tree), tree)


def test_frontal_keeps_only_frontal_views(tree):
    kept = labels(tree, views="frontal")
    assert sorted(kept) == sorted(path for path in KINDS if "frontal" in path)


def test_a_patient_in_two_csvs_is_one_patient(tree):
    path = "valid/patient00001/study9/view1_frontal.jpg"
    put(tree, "valid.csv", table({path: ("", "", "Frontal")}), path)
    splits = {record.split for record in open_chexpert(tree, DEFAULTS).records if record.patient == "patient00001"}
    assert splits == {"train", "val"}


def test_remarks_count_the_labels(tree):
    (remark,) = open_chexpert(tree, DEFAULTS).remarks
    assert remark == ("Labels by the rule abnormal, views all: train 5 pneumonia, 1 normal; val 1 pneumonia, 1 normal.")
    (remark,) = open_chexpert(tree, Options("pneumonia-ignore", "frontal")).remarks
    assert remark == (
        "Labels by the rule pneumonia-ignore, views frontal: train 1 pneumonia, 3 normal, 1 left out as uncertain;"
        " val 1 pneumonia, 0 normal."
    )


@pytest.mark.parametrize("alone", ["train", "valid"])
def test_one_csv_is_enough(tree, alone):
    (tree / ("valid.csv" if alone == "train" else "train.csv")).unlink()
    assert list(labels(tree)) == sorted(path for path in KINDS if path.startswith(alone))


def test_columns_that_no_rule_needs_may_be_missing(tree):
    (tree / "train.csv").unlink()
    content = b"Path,No Finding\r\nCheXpert-v1.0/valid/patient64541/study1/view1_frontal.jpg,1.0\r\n"
    put(tree, "valid.csv", content.replace(b"No Finding", b'"No Finding"'))
    assert labels(tree) == {"valid/patient64541/study1/view1_frontal.jpg": 0}
    put(tree, "test.csv", content.replace(b"valid", b"test"), "test/patient64541/study1/view1_frontal.jpg")
    assert len(labels(tree)) == 2


@pytest.mark.parametrize("release", ["", "CheXpert-v1.0/"])
def test_a_test_csv_is_the_test_split_with_or_without_the_release_folder(tree, release):
    path = "test/patient64741/study1/view1_frontal.jpg"
    put(tree, "test.csv", f"{HEADER}\n{row(release + path, '', '1.0')}\n".encode(), path)
    assert Record(path, 1, "patient64741", "test") in open_chexpert(tree, DEFAULTS).records


def test_a_test_csv_without_labels_is_left_out_with_a_remark(tree):
    before = open_chexpert(tree, DEFAULTS)
    put(tree, "test.csv", b"Path\nCheXpert-v1.0/test/patient64741/study1/view1_frontal.jpg\n")
    source = open_chexpert(tree, DEFAULTS)
    assert source.records == before.records
    assert source.remarks == (*before.remarks, "test.csv is left out: it lacks one of the columns No Finding, Path.")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"id,label\n1,0\n", b"Path,label\na.jpg,0\n", b"File,Pneumonia\na.jpg,0\n", b"\x89PNG\r\n\x1a\n\xff"],
)
def test_other_folders_are_no_chexpert(tmp_path, content):
    (tmp_path / "valid.csv").mkdir()
    if content is not None:
        put(tmp_path, "train.csv", content, "NORMAL/a.png")
    put(tmp_path, "test.csv", table({"test/patient1/study1/a.jpg": ("", "", "Frontal")}))
    assert open_chexpert(tmp_path, Options(label_rule="no such rule")) is None


def test_an_unknown_option_is_refused_with_the_known_ones(tree):
    assert all(rule in refusal(tree, Options(label_rule="majority")) for rule in RULES)
    assert "pneumonia-ones" in refusal(tree, Options(label_rule="pneumonia-one"))
    assert refusal(tree, Options(views="lateral")).endswith("choose from all, frontal")


def test_a_choice_of_views_that_leaves_no_image_is_refused(tree):
    put(tree, "train.csv", table({}))
    put(tree, "valid.csv", table({path: kind for path, kind in KINDS.items() if "64542" in path}))
    assert "no image with views frontal" in refusal(tree, Options(views="frontal"))


@pytest.mark.parametrize(
    ("header", "options", "named"),
    [
        (HEADER.replace("Path", "File"), DEFAULTS, "Path"),
        (HEADER.replace("No Finding", "NoFinding"), DEFAULTS, "No Finding"),
        (HEADER.replace("Pneumonia", "Edema"), Options("pneumonia-ones"), "Pneumonia"),
        (HEADER.replace("Edema", "Pneumonia"), Options("pneumonia-ones"), "Pneumonia"),
        (HEADER.replace("Frontal/Lateral", "View"), Options(views="frontal"), "Frontal/Lateral"),
        ("a,b", Options("abnormal", "frontal"), "Frontal/Lateral and one named No Finding and one named Path"),
    ],
)
def test_missing_columns_are_named(tree, header, options, named):
    content = (tree / "train.csv").read_text().replace(HEADER, header)
    put(tree, "train.csv", content.encode())
    line = refusal(tree, options)
    assert f"{tree}/train.csv must have one column named {named}:" in line


@pytest.mark.parametrize(
    "path",
    [
        "x/../patient00001/study1/a.jpg",
        "x/train/patient00001/../../../a.jpg",
        "x/train/patient00001/..",
        "x/train/patient00001/./a.jpg",
        "x/train/patient00001//a.jpg",
        "x/train/patient00001/study1\\..\\a.jpg",
        "x/train/study1/a.jpg",
        "patient00001/a.jpg",
        "x/train/patient00001",
        pytest.param("x" * 100_000, id="long"),
        "",
    ],
)
def test_a_path_that_is_not_below_a_patient_is_refused(tree, path):
    put(tree, "train.csv", f"{HEADER}\n{row(path)}\n".encode())
    assert "train.csv, line 2: Path is " in refusal(tree)


@pytest.mark.parametrize("above", ["", "./", "/", "/data/releases/CheXpert-v1.0-small/", "../x/", "C:\\data\\x\\"])
def test_whatever_is_above_the_split_in_a_path_is_passed_over(tree, above):
    """People rewrite the paths for their own place, also on Windows."""
    id = "train/patient00001/study1/view1_frontal.jpg"
    path = above + (id.replace("/", "\\") if "\\" in above else id)
    put(tree, "train.csv", f"{HEADER}\n{row(path, '1.0')}\n".encode())
    found = open_chexpert(tree, DEFAULTS).records
    assert [(record.id, record.patient) for record in found if record.split == "train"] == [(id, "patient00001")]


@pytest.mark.parametrize("value", ["2.0", "nan", "yes", pytest.param("x" * 100_000, id="long")])
def test_a_value_that_chexpert_does_not_have_is_refused(tree, value):
    put(tree, "train.csv", f"{HEADER}\n{row('x/train/patient1/a.jpg', value)}\n".encode())
    assert "train.csv, line 2: No Finding is " in refusal(tree)
    assert "1.0, 0.0, -1.0 or blank" in refusal(tree)


def test_values_are_read_as_spreadsheets_write_them(tree):
    path = "train/patient00001/study1/view1_frontal.jpg"
    for value, label in (("1", 0), (" 1.0", 0), ("0", 1), ("-1", 1)):
        put(tree, "train.csv", table({path: (value, "", "Frontal")}))
        assert labels(tree)[path] == label


def test_a_repeated_path_must_have_the_same_label(tree):
    name = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    before = labels(tree)
    content = (tree / "train.csv").read_bytes()
    put(tree, "train.csv", content + f"{row(name, '1.0', '', 'Frontal')}\n".encode())
    assert labels(tree) == before, "the same label twice is one image"
    put(tree, "train.csv", content + f"{row(name, '0.0', '', 'Frontal')}\n".encode())
    assert "train.csv, line 8:" in refusal(tree)
    assert "has another No Finding: remove one of them" in refusal(tree)


def test_a_path_in_two_csvs_is_refused(tree):
    path = "train/patient00001/study1/view1_frontal.jpg"
    put(tree, "valid.csv", table({path: KINDS[path]}))
    assert f"lists {path}, as another CSV does" in refusal(tree)


@pytest.mark.parametrize("change", [lambda it: b"\xef\xbb\xbf" + it, lambda it: it.replace(b"\n", b"\r\n") + b"\r\n"])
def test_csvs_are_read_as_other_programs_write_them(tree, change):
    before = labels(tree)
    put(tree, "train.csv", change((tree / "train.csv").read_bytes()))
    assert labels(tree) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it.replace(b"Female", b"F\xfcmale"), "not UTF-8 at byte"),
        (lambda it: it.decode().encode("utf-16"), "NUL bytes"),
        (lambda it: it.replace(b"Female", b"Fe\0male"), "NUL bytes"),
        (lambda it: it.replace(b"Female", b"F" * 200_000), "field larger than field limit"),
        (lambda it: it.replace(b"Female", b'"Female', 1), "line 7: unexpected end of data"),
        (lambda it: it[:-20], "line 7: 1"),
        (lambda it: it.replace(b"68", b"6,8", 1), "line 2: 20 fields, but the first line has 19"),
    ],
)
def test_a_damaged_csv_is_refused_in_one_line(tree, change, says):
    (tree / "valid.csv").unlink()
    put(tree, "train.csv", change((tree / "train.csv").read_bytes()))
    line = refusal(tree)
    assert says in line
    assert str(tree / "train.csv") in line


def test_a_missing_image_is_a_record_that_cannot_be_read(tree):
    gone = "train/patient00001/study1/view1_frontal.jpg"
    (tree / gone).unlink()
    source = open_chexpert(tree, DEFAULTS)
    assert source.records[0].id == gone
    with pytest.raises(UnreadableImage, match="No such file"):
        source.read(source.records[0], 8)


def test_a_csv_without_any_of_its_images_is_refused(tree):
    (tree / "valid").rename(tree / "elsewhere")
    line = refusal(tree)
    assert "none of the images" in line
    assert str(tree / "valid.csv") in line


def test_the_folder_around_the_release_is_entered(tree):
    before = labels(tree)
    source = open_source(str(tree.parent))
    assert {record.id: record.label for record in source.records} == before
    assert source.location == str(tree)


@pytest.mark.parametrize("csvs", ["", "CheXpert-v1.0 batch 1 (validate & csv)"])
def test_the_folders_of_the_full_size_release_are_found(tree, csvs):
    """Patients lie in the folders of three batches; the CSVs and the val split in a fourth one, or around them."""
    batch = "CheXpert-v1.0 batch 1 (validate & csv)"
    (tree / batch).mkdir()
    (tree / "valid").rename(tree / batch / "valid")
    for patient in sorted((tree / "train").iterdir()):
        folder = tree / f"CheXpert-v1.0 batch {2 + int(patient.name[-1]) % 3} (train x)"
        folder.mkdir(exist_ok=True)
        patient.rename(folder / patient.name)
    (tree / "train").rmdir()
    for name in ("train.csv", "valid.csv"):
        (tree / name).rename(tree / csvs / name)
    source = open_chexpert(tree, DEFAULTS)
    assert sorted(record.label for record in source.records) == sorted(kind[3][0] for kind in KINDS.values())
    assert all((tree / record.id).is_file() for record in source.records)
    first = source.records[0]
    assert first.id == f"{batch}/valid/patient64541/study1/view1_frontal.jpg"
    assert (first.patient, first.split, first.label) == ("patient64541", "val", 1)


def test_a_pickled_source_reads_the_right_image(tree):
    for number, (path, kind) in enumerate(KINDS.items()):
        image, _ = phantom.render(seed=3, index=number, label=kind[3][0], size=40)
        Image.fromarray(image).save((tree / path), "PNG")
    source = pickle.loads(pickle.dumps(open_chexpert(tree, DEFAULTS)))
    for number, record in enumerate(source.records):
        expected, _ = phantom.render(seed=3, index=number, label=record.label, size=40)
        np.testing.assert_array_equal(source.read(record, 40), expected)


def test_the_fingerprint_follows_only_images_csvs_and_options(tree):
    seen = [open_chexpert(tree, DEFAULTS).fingerprint]
    put(tree, "README.txt", b"", "train/patient00009/study1/view1_frontal.jpg")
    os.utime(tree / "train.csv", ns=(0, 1))
    assert open_chexpert(tree, DEFAULTS).fingerprint == seen[0]

    first, *_, last = (tree / path for path in KINDS)
    changes = [
        lambda: first.write_bytes(b"longer than before"),
        lambda: os.utime(first, ns=(0, first.stat().st_mtime_ns + 1)),
        last.unlink,
        lambda: put(tree, "train.csv", (tree / "train.csv").read_bytes().replace(b"68", b"69", 1)),
    ]
    for change in changes:
        change()
        seen.append(open_chexpert(tree, DEFAULTS).fingerprint)
    seen += [open_chexpert(tree, Options(rule)).fingerprint for rule in RULES[1:]]
    seen.append(open_chexpert(tree, Options(views="frontal")).fingerprint)
    assert len(set(seen)) == len(seen)


def label_counts(counts, split, rule):
    """Count (pneumonia, normal, left out) of a CSV with these numbers of rows of each (No Finding, Pneumonia)."""
    lines = [HEADER]
    for (no_finding, pneumonia), count in counts.items():
        for number in range(len(lines), len(lines) + count):
            path = f"CheXpert-v1.0-small/{split}/patient{number // 4:05d}/study1/view{number % 4}_frontal.jpg"
            lines.append(row(path, no_finding, pneumonia))
    records, left_out = parse("\n".join(lines).encode(), "train.csv", split, Options(rule))
    positives = sum(record.label for record in records)
    return positives, len(records) - positives, left_out


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("abnormal", (201_033, 22_381, 0)),
        ("pneumonia-ones", (24_809, 198_605, 0)),
        ("pneumonia-zeros", (6_039, 217_375, 0)),
        ("pneumonia-ignore", (6_039, 198_605, 18_770)),
    ],
)
def test_train_has_the_published_counts(rule, expected):
    """Irvin et al. publish the findings' counts of the 223,414 rows."""
    counts = {("1.0", ""): 22_381, ("", "1.0"): 6_039, ("", "-1.0"): 18_770, ("", "0.0"): 2_799, ("", ""): 173_425}
    assert sum(counts.values()) == 223_414
    assert label_counts(counts, "train", rule) == expected


@pytest.mark.parametrize(("rule", "expected"), [("abnormal", (196, 38, 0)), ("pneumonia-ones", (8, 226, 0))])
def test_valid_has_the_published_counts(rule, expected):
    counts = {("1.0", "0.0"): 38, ("0.0", "1.0"): 8, ("0.0", "0.0"): 188}
    assert label_counts(counts, "valid", rule) == expected
