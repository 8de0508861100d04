"""A headless browser that a test can click and type in, and the page on which a person tries a task."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")


@contextmanager
def browser(profile: Path, width: int = 900, height: int = 1000, *, dark: bool = False) -> Iterator[Chrome]:
    """A browser that reaches this machine alone."""
    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--no-proxy-server"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    for flag in (*flags, f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def shown(driver: Chrome, name: str) -> bool:
    """Whether an element can be seen."""
    return driver.find_element(By.ID, name).is_displayed()


def text(driver: Chrome, name: str) -> str:
    """What an element says."""
    return driver.find_element(By.ID, name).text


def ask(driver: Chrome, task: str, texts: Mapping[str, str]) -> None:
    """Choose a task, type the texts of its columns, ask, and wait for an answer or an error."""
    wait = WebDriverWait(driver, 30)
    chosen = Select(driver.find_element(By.ID, "task"))
    wait.until(lambda _: any(option.text == task for option in chosen.options))
    chosen.select_by_visible_text(task)
    for column, typed in texts.items():
        field = driver.find_element(By.ID, f"column-{column}")
        field.clear()
        field.send_keys(typed)
    driver.find_element(By.ID, "ask").click()
    wait.until(lambda _: driver.find_element(By.ID, "ask").is_enabled())
    wait.until(lambda _: shown(driver, "answer") or shown(driver, "error"))
