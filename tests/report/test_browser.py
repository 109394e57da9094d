"""A page in a real browser: no error, no request, and every part does what it says."""

from __future__ import annotations

import json
import shutil

import pytest
from _harness.shown import HOSTILE, page, unlabelled

from congruence.report.as_html import installed, write

pytestmark = pytest.mark.skipif(
    not installed() or not shutil.which("chromium") or not shutil.which("chromedriver"),
    reason="needs congruence[report], selenium, and Debian's chromium and chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    # --no-sandbox: the tests may run as root, which chromium refuses else; /dev/shm is small in containers.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-prefers-reduced-motion"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def resize(browser, width, height=900):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def see_all(browser):
    """Scroll past every part, so that all figures are drawn."""
    script = """
        const done = arguments[0];
        const parts = [...document.querySelectorAll("section, .small, .plot, canvas")];
        const next = () => { const part = parts.shift(); if (!part) return done(true);
            part.scrollIntoView(); requestAnimationFrame(() => requestAnimationFrame(next)); };
        next();
    """
    assert browser.execute_async_script(script)


def texts(browser, selector):
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent.trim())", selector
    )


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def pixels(browser, side, sample=None):
    """The colours of a map, or of it around one sample."""
    script = """
        const canvas = document.querySelector(`#maps-${arguments[0]} canvas`);
        const copy = document.createElement("canvas");
        [copy.width, copy.height] = [canvas.width, canvas.height];
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        if (arguments[1] === null) return [...context.getImageData(0, 0, copy.width, copy.height).data].join();
        const [x, y] = window.placeOf(arguments[0], arguments[1]);
        return [...context.getImageData(Math.round(x) - 8, Math.round(y) - 8, 16, 16).data].join();
    """
    return browser.execute_script(script, side, sample)


def sorts(browser):
    first = "#results tbody th"
    assert texts(browser, first) == ["teacher", "ce", HOSTILE]
    heading = browser.find_element("css selector", "#results thead th:nth-child(2) button")
    heading.send_keys("\n")  # by keyboard: most first, since more is better
    assert texts(browser, first) == ["teacher", HOSTILE, "ce"]
    heading.send_keys("\n")
    assert texts(browser, first) == ["ce", HOSTILE, "teacher"]
    assert [text[:10] for text in texts(browser, "#results td.best")] == ["900 ± 0", "80.5 ± 0.7"]


def draws(browser):
    see_all(browser)
    assert browser.execute_script("return document.querySelectorAll('#costs-plot .scatterlayer .trace').length") == 3
    assert len(texts(browser, "#curves-plots .small svg.main-svg")) > 2
    assert browser.execute_script("return document.querySelectorAll('#heat .heatmaplayer image').length") == 2
    for side in ("teacher", "student"):
        assert len(set(pixels(browser, side).split(","))) > 10
    click(browser, "#curves-controls [data-value='gradient shares']")
    assert texts(browser, "#curves-told")[0].startswith("How much of the pull")
    click(browser, "#curves-controls [data-value='losses']")


def marks_the_twin(browser):
    from selenium.webdriver import ActionChains

    canvas = browser.find_element("css selector", "#maps-teacher canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    before = pixels(browser, "student", 5)
    x, y = browser.execute_script("return window.placeOf('teacher', 5)")
    width, height = browser.execute_script("const c = arguments[0]; return [c.clientWidth, c.clientHeight]", canvas)
    ActionChains(browser).move_to_element_with_offset(canvas, round(x - width / 2), round(y - height / 2)).perform()
    assert browser.execute_script("return document.body.dataset.pointed") == "5"
    assert pixels(browser, "student", 5) != before
    told = texts(browser, "#maps-card dd")
    assert told[0] == browser.execute_script("return DATA.samples[0].names[5]")
    assert told[1] == "<img src=x onerror=window.hurt=2>"
    assert len(texts(browser, "#maps-card .thumb")) == 1
    canvas.send_keys("\ue014")  # the right arrow: the next sample
    assert browser.execute_script("return document.body.dataset.pointed") == "6"


def views_switch(browser):
    picture = "return document.querySelector('#maps-teacher canvas').toDataURL()"
    before = browser.execute_script(picture)
    click(browser, "#maps-controls [data-value='tsne']")
    assert browser.execute_script(picture) != before
    click(browser, "#maps-controls [data-value='over']")
    assert not browser.find_element("id", "maps-student").is_displayed()
    assert "▲" in texts(browser, "#maps-teacher figcaption")[0]
    click(browser, "#maps-controls [data-value='beside']")
    assert browser.find_element("id", "maps-student").is_displayed()
    browser.execute_script(
        "const list = document.querySelector('#maps-controls select');"
        "list.value = '1'; list.dispatchEvent(new Event('change'));"
    )
    assert texts(browser, "#maps-student figcaption") == [HOSTILE]
    assert len(texts(browser, "#changed-list article")) == 6
    assert len(texts(browser, "#classes-table tbody tr")) == 4


def contrast(browser):
    """The smallest contrast of text on its ground among a page's plain texts (WCAG: AA asks 4.5)."""
    return browser.execute_script("""
        const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const light = (color) => { const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((v) => linear(v / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$|transparent/.test(c)) return c; } return "rgb(255, 255, 255)"; };
        const kinds = "p, h1, h2, h3, td, th, small, button, a, dt, dd, figcaption, pre, summary, label, legend";
        const all = [...document.querySelectorAll(kinds)];
        const shown = all.filter((e) => e.textContent.trim() && e.offsetParent && !e.closest(".skip"));
        return Math.min(...shown.map((e) => {
            const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
        }));
    """)


def texts_of_no_class(browser, tmp_path):
    browser.get(write(unlabelled(), tmp_path / "texts.html").as_uri())
    see_all(browser)
    assert HOSTILE in texts(browser, "#changed-list .text")[0] or "plain" in texts(browser, "#changed-list .text")[0]
    assert texts(browser, "#heat-told") == ["Heat maps need labels, which the data does not have."]
    assert "Coloured by the teacher's answers" in texts(browser, "#maps-told")[0]
    assert browser.execute_script("return [document.documentElement.scrollWidth, window.hurt]") == [390, None]


def test_a_page_in_a_browser(browser, tmp_path):
    path = write(page(), tmp_path / "report.html")
    resize(browser, 1280)
    browser.get("about:blank")
    browser.get_log("performance")  # of the browser's own first page
    browser.get(path.as_uri())
    painted = browser.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert painted < 3000
    assert texts(browser, "title, h1") == [f"All of it {HOSTILE}"] * 2
    sorts(browser)
    draws(browser)
    marks_the_twin(browser)
    views_switch(browser)

    light, dark = "rgb(244, 245, 247)", "rgb(14, 17, 22)"
    ground = "return getComputedStyle(document.body).backgroundColor"
    assert contrast(browser) >= 4.5
    for asked, shown in (("light", light), ("dark", dark), ("light", light)):  # as the system asks
        media = {"features": [{"name": "prefers-color-scheme", "value": asked}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        assert browser.execute_script(ground) == shown
    click(browser, "#theme")  # and as the switch says
    assert browser.execute_script(ground) == dark
    assert contrast(browser) >= 4.5

    resize(browser, 390, 800)
    see_all(browser)
    widths = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths == [390, 390]
    for section in browser.execute_script(
        "return [...document.querySelectorAll('section')].map((s) => [s.id, s.getBoundingClientRect().right])"
    ):
        assert section[1] <= 390, section

    assert browser.execute_script("return window.hurt === undefined")
    texts_of_no_class(browser, tmp_path)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    files = {path.as_uri(), path.with_name("texts.html").as_uri()}
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == files
