"""The report in headless Chromium, as a reader sees it: at desktop and phone width, light and dark."""

import shutil

import numpy as np
import pytest
from support import pneumojax

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: see `make test-browser`")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")


@pytest.fixture(scope="module")
def report(finished, tmp_path_factory):
    """The report of a small run with explanations and their checks."""
    folder = shutil.copytree(finished[0], tmp_path_factory.mktemp("browser") / "here")
    for mode in (["--mode=explain", "--config.explanation.checks=true"], ["--mode=evaluate"]):
        done = pneumojax(*mode, "--workdir=work", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder / "work/report/index.html"


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def browser(request):
    width, scheme = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    yield driver
    driver.quit()


def test_the_page_loads_without_an_error_and_fits_its_width(browser, report):
    browser.get(report.as_uri())
    assert browser.get_log("browser") == []
    pictures = browser.execute_script(
        "return [...document.images].map(image => [image.complete, image.naturalWidth, image.alt])"
    )
    assert len(pictures) > 12
    assert all(complete and width > 0 and alt for complete, width, alt in pictures)
    excess = browser.execute_script("const page = document.documentElement; return page.scrollWidth - page.clientWidth")
    assert excess == 0, "wide tables and text scroll on their own"
    assert report.stat().st_size < 10_000_000


def test_text_contrasts_with_the_page(browser, report):
    """At least 4.5 to 1 (WCAG 2, AA), on light and dark screens."""
    browser.get(report.as_uri())
    script = "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    ink, page = (luminance(colour) for colour in browser.execute_script(script))
    assert (max(ink, page) + 0.05) / (min(ink, page) + 0.05) >= 4.5


def luminance(colour: str) -> float:
    rgb = np.array([int(part) for part in colour.strip("rgba()").split(",")[:3]]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_confusion_matrix_follows_the_slider(browser, report):
    """At threshold 0 all images are predicted pneumonia, at 1 none; the keyboard moves the slider."""
    browser.get(report.as_uri())
    box = browser.find_element("css selector", ".any")
    slider = box.find_element("css selector", "input")

    def cells():
        return [int(cell.text.split()[0]) for cell in box.find_elements("css selector", "td[style]")]

    start = cells()
    slider.send_keys(webdriver.Keys.HOME)
    assert cells() == [0, start[0] + start[1], 0, start[2] + start[3]]
    assert "Sensitivity 1.000, specificity 0.000" in box.text
    slider.send_keys(webdriver.Keys.END)
    assert cells() == [start[0] + start[1], 0, start[2] + start[3], 0]
    assert "positive predictive value undefined" in box.text
