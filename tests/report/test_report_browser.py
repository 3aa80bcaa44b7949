"""The page in a real browser: Chromium without a window, from disk, as a person would click through it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_help import GRID, Batch
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from rsbatch.cli import main

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "the report's page is not tried: there is no chromium and chromedriver (apt-get install chromium-driver)"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip

pytestmark = pytest.mark.slow


class Tab:
    """A browser with one page. `downloads` is where it puts files."""

    def __init__(self, driver: Chrome, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads

    def open(self, page: Path, part: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + part)

    def all(self, selector: str) -> list[Any]:
        return [found for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def one(self, selector: str) -> Any:
        found = self.all(selector)
        assert len(found) == 1, f"{selector}: {len(found)}"
        return found[0]

    def ids(self, of: str = "#grid") -> list[str]:
        code = "return [...document.querySelectorAll(arguments[0])].map((one) => one.ariaLabel.split(',')[0])"
        found: list[str] = self.driver.execute_script(code, f"{of} .tile")
        return found

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def choose(self, label: str, value: str) -> None:
        self.driver.execute_script(
            "const label = [...document.querySelectorAll('label')].find((one) => one.offsetParent &&"
            " one.firstElementChild.textContent === arguments[0]);"
            "const select = label.querySelector('select'); select.value = arguments[1];"
            "select.dispatchEvent(new Event('change'))",
            label,
            value,
        )

    def run(self, code: str) -> Any:
        return self.driver.execute_script(code)

    def wait(self, done: Callable[[], object]) -> None:
        # A page that reloads takes away what was just found.
        WebDriverWait(self.driver, 20, ignored_exceptions=[StaleElementReferenceException]).until(lambda _: done())

    def troubles(self) -> list[str]:
        """What the browser complained of: refused by the policy, errors of the script, files that are not there."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if BROWSER is None or DRIVER is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    options = ChromeOptions()
    options.binary_location = BROWSER
    downloads = tmp_path_factory.mktemp("downloads")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    try:
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
        yield Tab(driver, downloads)
    finally:
        driver.quit()


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    browser.driver.get_log("browser")
    yield browser
    assert browser.troubles() == []


def made(batch: Batch) -> Path:
    assert main(["report", str(batch.manifest)]) == 0
    return batch.output / "report.html"


def test_search_and_filters(tab: Tab, tmp_path: Path) -> None:
    tab.open(made(Batch(tmp_path, GRID, {"hero": "failed"})))
    assert len(tab.ids()) > 10
    tab.one("#search").send_keys("FOX ink")
    assert tab.ids() == ["fox-ink-dawn-1", "fox-ink-dawn-2", "fox-ink-noon-1", "fox-ink-noon-2"]
    assert tab.one("#count").text == "4 of 25"
    tab.choose("light", "noon")
    assert tab.ids() == ["fox-ink-noon-1", "fox-ink-noon-2"]
    tab.driver.refresh()
    assert tab.ids() == ["fox-ink-noon-1", "fox-ink-noon-2"]  # the address keeps them
    tab.one("#search").send_keys(Keys.CONTROL + "a", Keys.BACKSPACE)
    tab.choose("light", "")
    tab.choose("State", "failed")
    assert tab.ids() == ["hero"]
    assert "moderated" in tab.one("#grid .frame").text


def test_the_large_view_by_keyboard(tab: Tab, tmp_path: Path) -> None:
    tab.open(made(Batch(tmp_path, GRID)))
    first = tab.all("#grid .tile")[0]
    first.click()
    dialog = tab.one("dialog")
    assert "A cat in ink at dawn" in dialog.text
    assert "job-cat-ink-dawn-1" in dialog.text
    assert "req-0" in dialog.text
    assert "$0.05 (delivered)" in dialog.text
    tab.wait(lambda: tab.run("return document.querySelector('#stage img').naturalWidth") == 96)
    tab.press(Keys.ARROW_RIGHT)
    assert tab.one("#large-title bdi").text == "cat-ink-dawn-2"
    tab.press("r")
    assert tab.one("#reject").get_attribute("aria-pressed") == "true"
    tab.press(Keys.ESCAPE)
    tab.wait(lambda: "card=" not in tab.driver.current_url)
    assert not tab.all("dialog")
    assert "rejected" in tab.driver.switch_to.active_element.get_attribute("aria-label")
    tab.press(Keys.ARROW_RIGHT, "r")
    assert tab.one("#reject-count").text == "2 rejected"


def test_rejected_images_become_a_file_and_outlive_a_reload(tab: Tab, tmp_path: Path) -> None:
    batch = Batch(tmp_path, GRID)
    tab.open(made(batch))
    tab.all("#grid .tile")[2].click()
    tab.press("r", Keys.ESCAPE)
    tab.wait(lambda: "card=" not in tab.driver.current_url)
    tab.driver.refresh()
    assert tab.one("#reject-count").text == "1 rejected"
    assert "redo" in tab.one("#rejects code").text
    tab.one("#download").click()
    file = tab.downloads / "rejects.json"
    tab.wait(lambda: file.exists() and file.stat().st_size)  # an empty one keeps the name until all has come
    task = batch.tasks[2]
    rejected = json.loads(file.read_text("utf-8"))["rejected"]
    assert [(one["task"], one["key"]) for one in rejected] == [(task.id, task.key)]
    tab.one("#clear").click()
    assert not tab.all("#rejects")


def test_the_axis_grid(tab: Tab, tmp_path: Path) -> None:
    tab.open(made(Batch(tmp_path, GRID)))
    tab.one("nav a[href='#axes']").click()
    assert [e.text for e in tab.all("#axis-grid tbody th")] == ["cat", "owl", "fox"]
    assert [e.text for e in tab.all("#axis-grid thead th")][1:] == ["ink", "oil"]
    assert len(tab.all("#axis-grid .tile")) == 24
    tab.choose("light", "dawn")
    assert len(tab.all("#axis-grid .tile")) == 12
    tab.choose("Columns", "light")
    tab.choose("style", "ink")
    assert [e.text for e in tab.all("#axis-grid thead th")][1:] == ["dawn", "noon"]
    assert tab.ids("#axis-grid tbody tr:nth-child(2)") == [
        "owl-ink-dawn-1", "owl-ink-dawn-2", "owl-ink-noon-1", "owl-ink-noon-2",
    ]  # fmt: skip
    tab.all("#axis-grid .tile")[3].click()
    assert tab.one("#place").text == "4 of 12"


def test_on_a_phone_little_is_in_the_way_of_the_images(tab: Tab, tmp_path: Path) -> None:
    words = "word " * 10_000
    batch = Batch(
        tmp_path,
        f'version: 1\ntasks: [{{prompt: "{{{{ x }}}}{{{{ y }}}}", matrix: {{x: ["{words}", b], y: [1, 2]}}}}]\n',
    )
    page = made(batch)
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    tab.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        tab.open(page)
        tab.all("#grid .tile")[0].click()
        tab.press("r", Keys.ESCAPE)
        tab.wait(lambda: tab.all("#rejects"))
        assert tab.one("#rejects").size["height"] < 844 / 8
        clear, download = tab.one("#clear").rect, tab.one("#download").rect
        assert (clear["y"], clear["height"]) == (download["y"], download["height"])
        assert tab.run("const nav = document.querySelector('nav'); return nav.offsetHeight - nav.clientHeight") <= 1
        tab.one("nav a[href='#axes']").click()
        assert [e.text[-5:] for e in tab.all("#axis-grid tbody th")] == ["word…", "b"]
        assert tab.all("#axis-grid tbody th")[0].size["height"] < 844 / 3
    finally:
        tab.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_problems_and_figures(tab: Tab, tmp_path: Path) -> None:
    tab.open(made(Batch(tmp_path, GRID, {"hero": "held", "owl-ink-dawn-1": "failed", "owl-ink-dawn-2": "failed"})))
    tab.one("nav a[href='#problems']").click()
    assert [e.text for e in tab.all(".trouble h3")] == ["held 1 task", "failed 2 tasks"]
    assert "resolve" in tab.all(".remedies code")[0].text
    tab.all(".trouble a.id")[1].click()
    assert "not allowed" in tab.one("dialog").text
    tab.press(Keys.ESCAPE)
    tab.one("nav a[href='#figures']").click()
    assert len(tab.all("#figures svg")) == 3
    assert "$1.25" in tab.one("#figures .big").text


def test_without_scripts_it_is_a_list(tab: Tab, tmp_path: Path) -> None:
    page = made(Batch(tmp_path, GRID))
    tab.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        tab.open(page)
        assert len(tab.all(".plain li")) == 25
        assert len(tab.all("#problems, #figures")) == 2
        assert not tab.all("#filters, #grid, #axes, #rejects, dialog, button")
    finally:
        tab.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_text_stays_text(tab: Tab, tmp_path: Path) -> None:
    hostile = "<script>document.title='broken'</script>\"'><img src=x onerror=document.title='broken'></textarea>"
    entry = "{id: 'a-{{ x | slug }}', prompt: '{{ x }}', matrix: {x: [HOSTILE, b]}}".replace(
        "HOSTILE", json.dumps(hostile)
    )
    text = f"version: 1\ntasks: [{entry}]\n"
    tab.open(made(Batch(tmp_path, text)))
    assert "broken" not in tab.driver.title
    assert len(tab.all("img")) == 2
    tab.all("#grid .tile")[0].click()
    assert "<script>document.title" in tab.one("#details .text").text
    tab.press(Keys.ESCAPE)
    tab.one("nav a[href='#axes']").click()
    assert "broken" not in tab.driver.title


def test_thousands_of_tasks_are_few_elements(tab: Tab, tmp_path: Path) -> None:
    numbers = ", ".join(map(str, range(5000)))
    text = f'version: 1\ntasks: [{{id: "t{{{{ n }}}}", prompt: "Picture {{{{ n }}}}", matrix: {{n: [{numbers}]}}}}]\n'
    batch = Batch(tmp_path, text, {f"t{n}": "new" for n in range(5000)})
    tab.open(made(batch))
    assert tab.run("return document.querySelectorAll('*').length") < 1500
    tab.run("scrollTo(0, document.body.scrollHeight)")
    tab.wait(lambda: "t4999" in tab.ids())
    assert tab.run("return document.querySelectorAll('*').length") < 1500
    tab.all("#grid .tile")[0].click()
    tab.press(Keys.ESCAPE)
    tab.wait(lambda: "card=" not in tab.driver.current_url)
    tab.press(Keys.HOME)
    tab.wait(lambda: "t0" in tab.ids())


def test_a_page_that_is_watched_reloads_and_keeps_its_place(tab: Tab, tmp_path: Path) -> None:
    from rsbatch.commands.report import Writer
    from rsbatch.session import Options, open_project

    batch = Batch(tmp_path, GRID, {"hero": "out"})
    page = batch.output / "report.html"
    writer = Writer(open_project(batch.manifest, Options()), page, "batch.yaml")
    writer.write(1)
    tab.open(page, "#/images?q=hero")
    # A page that is just reloading has none of this for a moment.
    tab.wait(lambda: [e.get_attribute("aria-label") for e in tab.all("#grid .tile")] == ["hero, pending"])
    batch.save(1, batch.tasks[-1], "job-hero")
    batch.write()
    writer.write(2)
    tab.wait(lambda: [e.get_attribute("aria-label") for e in tab.all("#grid .tile")] == ["hero, saved"])
    tab.wait(lambda: [e.get_attribute("value") for e in tab.all("#search")] == ["hero"])
