"""The page in headless Chromium and Firefox: it answers as the model does, sends nothing, and survives any file.

See `make test-page`. Pictures of it lie in build/pictures.
"""

import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from dicom_files import GREY, LOSSLESS, LOSSY, WIDE, lut, write
from PIL import Image, PngImagePlugin
from pydicom import uid
from support import ROOT, encoded

import pneumojax
from pneumojax.data.sources import phantom
from pneumojax.data.sources.unlabelled import look_at_file
from pneumojax.export import try_page
from pneumojax.inference import bundle
from pneumojax.inference.predictions import Row
from pneumojax.serving.serve_settings import Limits
from studies import browsers

pytestmark = pytest.mark.skipif(bool(browsers.missing()), reason=f"{browsers.missing()} is not installed")
SIZE = 150
PICTURES = ROOT / "build/pictures"
LOCAL = ("file:", "blob:", "data:")  # Firefox counts the fonts of its own buttons
SHARED = ROOT.parent / "shared/data"


@pytest.fixture(scope="module", params=["chrome", "firefox"])
def browser(request):
    if not browsers.executable(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(scope="module")
def model():
    return pneumojax.load("m1")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = bundle.shipped()["m1"]
    path = tmp_path_factory.mktemp("page") / "try.html"
    path.write_bytes(try_page.page(bundle.read(folder), (folder / "README.md").read_text()).content)
    assert path.stat().st_size <= 12_000_000
    return path


def film(number: int, width: int = 280, height: int = 340) -> Image.Image:
    return Image.fromarray(phantom.render(11, number, number % 2, width)[0]).resize((width, height))


def found_in(browser, built, paths, **asked):
    """Return what the page finds on files, and check that it asked for nothing and complained of nothing."""
    seen = browsers.drive(browser, built, batches={"films": [str(path) for path in paths]}, **asked)["batches"]["films"]
    page = asked.get("url")
    assert [url for url in seen["requests"] if not url.startswith(LOCAL) and url != page] == []
    assert [line for line in seen["console"] if line.startswith("error")] == []
    return browsers.findings(seen)


def pictures_of_all_kinds(folder: Path) -> list[Path]:
    """Write films in the forms that PNG and JPEG have."""
    grey = film(1)
    levels = np.asarray(grey)
    wide = levels.astype(np.uint16) << 8 | levels
    red = Image.merge("RGB", [grey, grey.point(lambda level: level // 2), grey.point(lambda level: level // 3)])
    alpha = Image.merge("RGBA", [grey, grey, grey, grey.point(lambda level: 255 - level // 2)])
    significant = PngImagePlugin.PngInfo()
    significant.add(b"sBIT", bytes([12]))
    exif = Image.Exif()
    kinds = {
        "grey.png": encoded(grey),
        "one-bit.png": encoded(grey.point(lambda level: 255 * (level > 90)).convert("1")),
        "four-bits.png": encoded(grey.quantize(16), bits=4),
        "palette.png": encoded(red.quantize(200)),
        "colour.png": encoded(red),
        "colour.jpg": encoded(red, "JPEG", quality=95),
        "alpha.png": encoded(alpha),
        "grey-alpha.png": encoded(alpha.convert("LA")),
        "transparent.png": encoded(grey, transparency=77),
        "sixteen.png": encoded(Image.fromarray(wide)),
        "twelve.png": encoded(Image.fromarray(wide >> 4)),
        "stated.png": encoded(Image.fromarray(wide >> 4), pnginfo=significant),
        "dark.png": encoded(Image.fromarray(np.where(np.arange(280) == 0, 65535, wide >> 5).astype(np.uint16))),
        "progressive.jpg": encoded(grey, "JPEG", progressive=True),
        "inverted.png": encoded(grey.point(lambda level: 255 - level)),
        "uniform.png": encoded(Image.new("L", (200, 200), 90)),
        "small.png": encoded(grey.resize((20, 24))),
        "narrow.png": encoded(grey.resize((400, 60))),
    }
    for turn in range(2, 9):
        exif[0x0112] = turn
        kinds[f"turned-{turn}.jpg"] = encoded(grey, "JPEG", exif=exif)
        kinds[f"turned-{turn}.png"] = encoded(grey, exif=exif)
    for name, content in kinds.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in kinds]


def test_png_and_jpeg_of_all_kinds_are_read_as_the_command_line_reads_them(browser, built, tmp_path):
    paths = pictures_of_all_kinds(tmp_path)
    for path, found in zip(paths, found_in(browser, built, paths), strict=True):
        right = look_at_file(str(path), SIZE)
        assert (path.name, found.error) == (path.name, right.problem)
        away = np.abs(found.square.astype(int) - right.image)
        if path.name == "colour.jpg":  # of colours that RGB cannot show, libjpeg knows the brightness alone
            assert away.mean() < 0.5
        else:  # a turned film is resized after it is turned
            assert (path.name, away.max() <= 2 * ("turned" in path.name)) == (path.name, True), away.max()
        quality = tuple(flag for flag in found.flags if flag not in ("unlike_training", "in_training"))
        assert (path.name, quality) == (path.name, right.flags)


def dicom_of_all_kinds(folder: Path) -> list[Path]:
    """Write radiographs in the transfer syntaxes and with the windows that files have."""
    made = []

    def add(name, *arguments, **elements):
        made.append(write(folder / f"{name}.dcm", *arguments, **elements))

    for syntax, encode in (LOSSLESS | LOSSY).items():
        add(f"{syntax.name[:24]}".replace("/", " "), WIDE, 12, syntax, encode(WIDE))
    add("eight", GREY, 8)
    baseline = encoded(Image.fromarray(GREY), "JPEG", quality=95)
    add("baseline", GREY, 8, uid.JPEGBaseline8Bit, baseline)
    add("inverse", WIDE, 12, PhotometricInterpretation="MONOCHROME1")
    add("window", WIDE, 12, WindowCenter=1500, WindowWidth=1800)
    add("two-windows", WIDE, 12, WindowCenter=[1500, 10], WindowWidth=[1800, 20])
    add("exact", WIDE, 12, WindowCenter=1500.5, WindowWidth=1800.25, VOILUTFunction="LINEAR_EXACT")
    add("sigmoid", WIDE, 12, WindowCenter=1500, WindowWidth=1800, VOILUTFunction="SIGMOID")
    add("useless-window", WIDE, 12, WindowCenter=-9000, WindowWidth=1)
    add("rescaled", WIDE, 12, RescaleSlope="1.5", RescaleIntercept="-1024", WindowCenter=500, WindowWidth=3000)
    signed = WIDE.astype(np.int16) - 2000
    add("signed", signed, 12, PixelRepresentation=1, WindowCenter=0, WindowWidth=3000)
    add("signed-no-window", signed, 12, PixelRepresentation=1)
    curve = (4095 * (np.arange(4096) / 4095) ** 0.5).astype(int)
    add("voi-lut", WIDE, 12, VOILUTSequence=lut(curve, 0, 12))
    add("modality-lut", WIDE, 12, ModalityLUTSequence=lut(curve, 0, 16))
    add("lut-of-bytes", WIDE, 12, VOILUTSequence=lut(curve[:3000] >> 4, 500, 8, width=1))
    padded = WIDE.copy()
    padded[:10] = 4000
    add("padding", padded, 12, PixelPaddingValue=4000)
    marked = WIDE // 4
    marked[:2, :40] = 4095
    add("marker", marked, 12)
    add("high-bit", WIDE << 4, 12, HighBit=15)
    add("lateral", WIDE, 12, ViewPosition="LL")
    add("ct", WIDE, 12, Modality="CT")
    add("hand", WIDE, 12, BodyPartExamined="HAND")
    add("frames", np.stack([WIDE, WIDE]), 12, Rows=64, Columns=64, NumberOfFrames=2)
    colours = np.stack([GREY, GREY // 2, GREY // 3], 2)
    add("rgb", colours, 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    planes = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1}
    add("planes", np.moveaxis(colours, 2, 0).reshape(64, 64, 3), 8, **planes)
    bare = folder / "bare.dcm"
    bare.write_bytes((folder / "window.dcm").read_bytes()[132:])
    whole = (folder / "window.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(whole[:-1000])
    return [*made, bare, folder / "cut.dcm"]


NOT_HERE = {"High-Throughput JPEG 2000", "a JPEG of 12 bits"}  # the command line reads them


def test_dicom_is_windowed_as_the_command_line_does_it(browser, built, tmp_path):
    paths = dicom_of_all_kinds(tmp_path)
    refused = set()
    for path, found in zip(paths, found_in(browser, built, paths), strict=True):
        right = look_at_file(str(path), SIZE)
        if named := {kind for kind in NOT_HERE if kind in found.error}:
            assert right.image is not None
            refused |= named
            continue
        assert (path.name, found.error) == (path.name, right.problem)
        if right.image is not None:
            away = np.abs(found.square.astype(int) - right.image).max()
            assert (path.name, away <= 1) == (path.name, True), away
            quality = tuple(flag for flag in found.flags if flag not in ("unlike_training", "in_training"))
            assert (path.name, quality) == (path.name, right.flags)
    assert refused == NOT_HERE


def test_a_hostile_file_gives_a_sentence_and_the_page_lives(browser, built, tmp_path):
    whole = encoded(film(0))
    jpeg = encoded(film(0), "JPEG")
    hostile = {
        "empty.png": b"",
        "text.txt": b"Dear colleague, " * 50,
        "cut.png": whole[: len(whole) // 2],
        "damaged.png": whole[:200] + bytes(300) + whole[500:],
        "cut.jpg": jpeg[:100],
        "noise.jpg": jpeg[:20] + np.random.default_rng(0).bytes(5000),
        "film.tiff": encoded(film(0), "TIFF"),
        "huge.png": encoded(Image.new("L", (10_000, 10_000), 7)),
        "wide.png": encoded(Image.new("L", (30_000, 100), 7)),
        "noise.dcm": bytes(128) + b"DICM" + np.random.default_rng(1).bytes(5000),
        "<img src=x onerror=alert(1)>.txt": b"a name that is no tag",
        "good.png": whole,
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
    *broken, good = found_in(browser, built, [tmp_path / name for name in hostile])
    assert all(found.error for found in broken)
    assert "100,000,000" not in broken[7].error and "10000x10000 pixels, more than 50,000,000" in broken[7].error
    assert "TIFF" in broken[6].error and broken[1].error == "neither PNG, JPEG nor DICOM"
    assert (good.error, good.row["error"]) == ("", "")
    assert [found.row["id"] for found in broken] == list(hostile)[:-1]


def test_the_csv_is_that_of_predict(browser, built, model, tmp_path):
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}, a film.png")
        film(number).save(paths[-1])
    paths.append(tmp_path / "=no film.png")
    paths[-1].write_bytes(b"")
    for path, found in zip(paths, found_in(browser, built, paths), strict=True):
        right = model.predict(path)._replace(id=path.name)
        assert tuple(found.row) == Row._fields
        assert found.row["id"] == (f"'{path.name}" if path.name[0] == "=" else path.name)
        for name in ("probability", "threshold", "threshold_sens95", "ood_score"):
            value, expected = found.row[name], getattr(right, name)
            assert (value == "") == (expected is None)
            assert value == "" or float(value) == pytest.approx(expected, abs=1e-4 if name == "ood_score" else 1e-6)
        for name in ("decision", "decision_at_sens95", "model", "version", "digest", "error"):
            assert found.row[name] == (getattr(right, name) or "")
        assert found.row["flags"] == ";".join(right.flags)


def test_it_is_the_same_from_the_server(browser, built, model, tmp_path):
    """The server's own policy and encoding hold beside those in the page."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    from pneumojax.serving.app import application

    text = built.read_bytes()
    policy = try_page.policy_of(*(try_page.BUNDLE.joinpath(name).read_text() for name in ("page.js", "page.css")))
    app = application(model, try_page.Page(text, policy), Limits(8, 4, 1_000_000, 20))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    path = tmp_path / "film.png"
    film(0).save(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        try:
            [found] = found_in(browser, built, [path], url=url)
        finally:
            server.should_exit = True
            thread.join()
    assert float(found.row["probability"]) == pytest.approx(model.predict(path).probability, abs=1e-6)


def test_nothing_gets_out_by_any_way(browser, built):
    """A server on this machine waits for what a script that got into the page would send."""
    with browsers.listening() as (target, asked):
        seen = browsers.drive(browser, built, plants=True, target=target)["plants"]
    assert asked == []
    for name, outcome in seen["outcomes"].items():
        assert (name, outcome.startswith(("refused", "see"))) == (name, True), outcome
    blocked = {line.split()[0] for line in seen["violations"]}
    assert {"connect-src", "img-src"} <= blocked and blocked & {"script-src", "script-src-elem"}


def test_it_is_used_by_the_keyboard_alone(browser, built, tmp_path):
    path = tmp_path / "film.png"
    film(0).save(path)
    seen = browsers.drive(browser, built, keyboard=[str(path)])["keyboard"]
    stops = " | ".join(seen["stops"])
    for name in ("#files", "#prevalence", "#as-calibrated", "Opacity of the heat map", "#save", "#clear", "Model card"):
        assert name in stops
    assert seen["changed"] == {"prevalence": "0.1 %", "rows": True, "opacity": "0"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_desktop_and_phone_in_light_and_dark(browser, built, tmp_path, width, scheme):
    """Pictures are written for whoever looks at them; the rules of accessibility are axe's."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    paths = [tmp_path / "normal.png", tmp_path / "a long name of a film, inverted.png", tmp_path / "no film.txt"]
    film(0, 500, 600).save(paths[0])
    film(1).point(lambda level: 255 - level).save(paths[1])
    paths[2].write_text("no film")
    view = {"name": "view", "width": width, "height": 900, "dark": scheme == "dark", "files": list(map(str, paths))}
    view["picture"] = str(PICTURES / f"{browser}-{width}-{scheme}.png")
    seen = browsers.drive(browser, built, views=[view])["views"]["view"]
    assert seen["excess"] == 0, "nothing reaches beyond the page"
    assert seen["problems"] == []
    assert seen["violations"] == []
    assert [line for line in seen["console"] if line.startswith("error")] == []
    ink, paper = (np.mean(json.loads(f"[{colour.strip('rgba()')}]")[:3]) for colour in seen["colours"])
    assert (ink < paper) == (scheme == "light")


def real(folder: str, count: int) -> list[Path]:
    paths = sorted((SHARED / folder).rglob("*.jpeg" if "kermany" in folder else "*"))
    paths = [path for path in paths if path.suffix in (".jpeg", ".jpg", ".png", ".dcm")]
    if not paths:
        pytest.skip(f"no films at {SHARED / folder}")
    return [paths[i] for i in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]


@pytest.mark.parametrize(
    ("folder", "count", "of_logit"),
    [("kermany_224", 48, 1e-5), ("adults_224", 48, 1e-5), ("kermany_fullsize", 48, None), ("dicom", 5, None)],
)
def test_real_films_are_answered_as_the_model_answers(browser, built, model, folder, count, of_logit):
    paths = real(folder, count)
    with browsers.copied(paths) as films:
        found = found_in(browser, built, films)
    for path, one in zip(paths, found, strict=True):
        right = model.predict(path)
        assert one.row["decision"] == right.decision
        assert float(one.row["probability"]) == pytest.approx(right.probability, abs=1e-5 if of_logit else 0.02)
        if of_logit:
            logit = float(model.logits(one.square[None, ..., None].astype(np.float32) / 255)[0])
            assert one.logit == pytest.approx(logit, rel=of_logit, abs=of_logit)
            assert np.array_equal(one.square, look_at_file(str(path), SIZE).image)
        right_map = model.explain(one.square).values
        assert np.abs(one.map - right_map).max() <= 1e-3 * np.abs(right_map).max()
