"""The page at / in a headless Chromium: images, models, a restoration with progress, panel and results."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from label_server import FAST, Server, needs_monai_label
from small_bundle import magnitude, write_nifti

pytest.importorskip("selenium", reason="selenium is not installed; .ci/label installs it")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    needs_monai_label,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and chromium-driver are not installed"),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'browser'}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def until(what: Callable[[], Any], words: str, seconds: float = 180) -> Any:
    """Wait for something of the page."""
    for _ in range(int(seconds * 5)):
        if found := what():
            return found
        time.sleep(0.2)
    pytest.fail(f"the page never shows {words}")


def opened(browser: Any, server: Server) -> Any:
    browser.get(f"{server.address}/")
    until(lambda: browser.find_element(By.ID, "main").is_displayed(), "its main part")
    return browser


def choose(browser: Any, name: str, parameters: dict[str, Any], image: str = "") -> None:
    Select(browser.find_element(By.ID, "model")).select_by_value(name)
    Select(browser.find_element(By.ID, "image")).select_by_value(image)
    for key, value in parameters.items():
        browser.find_element(By.CSS_SELECTOR, f"#parameters input[name={key}]").send_keys(str(value))


def started(browser: Any) -> Any:
    """Click on the button, and return the entry of the new job."""
    before = {item.get_attribute("data-job") for item in browser.find_elements(By.CSS_SELECTOR, "#jobs > li")}
    browser.find_element(By.ID, "start").click()

    def new() -> Any:
        items = browser.find_elements(By.CSS_SELECTOR, "#jobs > li")
        return next((item for item in items if item.get_attribute("data-job") not in before), None)

    return until(new, f"a job; it says {browser.find_element(By.ID, 'message').text!r}")


def test_an_image_is_restored_and_its_results_are_shown_and_saved(browser: Any, server: Server, tmp_path: Path) -> None:
    opened(browser, server)
    images = [option.get_attribute("value") for option in browser.find_elements(By.CSS_SELECTOR, "#image option")]
    assert {"sub-01_T1w", "sub-02_T2w"} <= set(images)
    models = [option.text for option in browser.find_elements(By.CSS_SELECTOR, "#model option")]
    assert {"mri_sr", "mri_recon", "own_bundle", "derain"} <= set(models)
    choose(browser, "own_bundle", FAST | {"seed": 3}, "sub-01_T1w")
    item = started(browser)
    until(lambda: item.get_attribute("data-state") == "done", "that it is done")
    panel = until(lambda: item.find_elements(By.CSS_SELECTOR, "img[src^='blob:']"), "the panel")[0]
    until(lambda: int(panel.get_property("naturalWidth")) > 100, "the panel's pixels")
    assert "no truth is known" in item.find_element(By.CLASS_NAME, "warnings").text
    links = {link.text: link for link in item.find_elements(By.TAG_NAME, "a")}
    assert set(links) == {"restored", "std", "panel", "all"}
    links["restored"].click()
    saved = tmp_path / "downloads" / "sub-01_T1w_restored.nii.gz"
    until(saved.exists, "the file that was saved")
    expected = server.restore("own_bundle", tmp_path / "e.nii.gz", image="sub-01_T1w", parameters=FAST | {"seed": 3})
    assert np.array_equal(nibabel.load(saved).get_fdata(), nibabel.load(expected.path).get_fdata())
    item.find_element(By.TAG_NAME, "button").click()
    job = item.get_attribute("data-job")
    until(lambda: not browser.find_elements(By.CSS_SELECTOR, f"[data-job='{job}']"), "that the job was removed")
    errors = [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


def test_progress_is_shown_and_a_restoration_is_cancelled(browser: Any, server: Server, tmp_path: Path) -> None:
    sent = write_nifti(tmp_path / "mine.nii.gz", magnitude(36, 30, 2))
    opened(browser, server)
    choose(browser, "own_bundle", {"num_inference_steps": 100, "num_samples": 100})
    browser.find_element(By.ID, "file").send_keys(str(sent))
    item = started(browser)
    assert "mine.nii.gz" in item.text

    def share() -> float:
        bars = item.find_elements(By.TAG_NAME, "progress")
        return float(bars[0].get_property("value")) if bars else 0.0

    first = until(share, "progress")
    until(lambda: share() > first, "more progress")
    job = item.get_attribute("data-job")
    item.find_element(By.TAG_NAME, "button").click()
    until(lambda: not browser.find_elements(By.CSS_SELECTOR, f"[data-job='{job}']"), "that the job was removed")


def test_what_the_server_refuses_is_said(browser: Any, server: Server) -> None:
    opened(browser, server)
    message = browser.find_element(By.ID, "message")
    choose(browser, "own_bundle", {})
    browser.find_element(By.ID, "start").click()
    until(lambda: "one of them" in message.text, "that there is no input")
    choose(browser, "own_bundle", {"factor": 3}, "sub-01_T1w")
    browser.find_element(By.ID, "start").click()
    until(lambda: "400: factor is 3; accepted: 2, 4" in message.text, "why it was refused")


def test_the_interface_is_described_without_a_network(browser: Any, server: Server) -> None:
    browser.get(f"{server.address}/docs")
    until(lambda: browser.find_elements(By.CSS_SELECTOR, ".opblock"), "the routes")
