"""The page in a real browser: a person picks a task, types, and sees the answer; or what was wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="needs selenium")

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from compt_fast.prediction.predictor import Predictor
from compt_fast.serving.gate import Access
from tests.helpers.browser import BROWSER, DRIVER, ask, browser, shown, text
from tests.helpers.serving import ADMIN, Running, running

PHONE, DESK = 390, 900  # px
TOKEN = "a-token-of-tests-only"
PAIR = {"sentence1": "the nurse joined the doctor.", "sentence2": "the doctor was joined by the nurse."}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="no chromium with its chromedriver here"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile"), DESK) as found:
        yield found


def complaints(driver: Chrome) -> list[str]:
    """What the browser has to say of the page's scripts, but for answers that are errors."""
    lines = [line["message"] for line in driver.get_log("browser")]
    return [line for line in lines if "Failed to load resource" not in line]


def test_a_person_gets_the_answer_of_the_task_that_was_picked(
    driver: Chrome, server: Running, offline: Predictor
) -> None:
    driver.get(server.url)
    assert driver.title == "compt_fast"
    expected = offline.predict(PAIR, "mini_mnli", scores=True)
    ask(driver, "mini_mnli", PAIR)
    assert expected.scores is not None
    assert text(driver, "label") == expected.label == max(expected.scores, key=lambda label: expected.scores[label])
    assert expected.text == expected.label or f"“{expected.text}”, which is no label" in text(driver, "said")
    rows = [row.text.split("\n") for row in driver.find_elements(By.CSS_SELECTOR, "#scores .score")]
    ordered = sorted(expected.scores.items(), key=lambda item: -item[1])
    assert rows == [[label, f"{100 * share:.1f} %"] for label, share in ordered]
    widths = [bar.size["width"] for bar in driver.find_elements(By.CLASS_NAME, "bar")]
    assert widths == sorted(widths, reverse=True) and widths[0] > 50
    assert "ms in the server" in text(driver, "time")
    assert not shown(driver, "error") and complaints(driver) == []


def test_columns_follow_the_task_and_a_score_is_a_number(driver: Chrome, server: Running, offline: Predictor) -> None:
    driver.get(server.url)
    ask(driver, "mini_sst2", {"sentence1": "the film was a joy"})
    assert len(driver.find_elements(By.TAG_NAME, "textarea")) == 1
    assert text(driver, "label") == offline.predict({"sentence1": "the film was a joy"}, "mini_sst2", scores=True).label
    ask(driver, "mini_stsb", PAIR)
    assert len(driver.find_elements(By.TAG_NAME, "textarea")) == 2
    expected = offline.predict(PAIR, "mini_stsb", scores=True)
    assert float(text(driver, "label")) == expected.label
    assert len(driver.find_elements(By.CLASS_NAME, "score")) == 8
    assert complaints(driver) == []


def test_what_is_wrong_is_said_and_nothing_typed_is_taken_for_markup(driver: Chrome, server: Running) -> None:
    driver.get(server.url)
    driver.execute_script("window.hurt = false")
    ask(driver, "mini_sst2", {"sentence1": "<img src=x onerror='window.hurt = true'>"})
    assert shown(driver, "answer")
    driver.execute_script("tasks[0].name = '<img src=x onerror=\"window.hurt = true\">'; list = null")
    driver.execute_script("document.getElementById('column-sentence1').value = '\\u0000'")
    driver.find_element(By.ID, "ask").click()
    WebDriverWait(driver, 30).until(lambda _: shown(driver, "error"))
    assert "row 1: column 'sentence1' holds a NUL character" in text(driver, "error")
    assert not shown(driver, "answer") and not driver.execute_script("return window.hurt")
    assert complaints(driver) == []


def test_a_token_is_asked_for_where_one_is_needed(driver: Chrome, offline: Predictor) -> None:
    with running(offline, access=Access(TOKEN, ADMIN)) as server:
        driver.get(server.url)
        WebDriverWait(driver, 30).until(lambda _: shown(driver, "error"))
        assert "bearer token" in text(driver, "error")
        driver.find_element(By.ID, "token").send_keys(TOKEN + "\t")
        ask(driver, "mini_sst2", {"sentence1": "the film was a joy"})
        assert shown(driver, "answer") and not shown(driver, "error")


def test_it_fits_a_phone_and_has_a_dark_side(server: Running, tmp_path: Path) -> None:
    with browser(tmp_path / "dark", dark=True) as dark:
        dark.get(server.url)
        ask(dark, "mini_stsb", PAIR)
        # A headless window has a least width of its own: the page is laid out in a frame of a phone's.
        dark.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": PHONE, "height": 800, "deviceScaleFactor": 1, "mobile": False},
        )
        root = "document.documentElement"
        assert dark.execute_script(f"return {root}.clientWidth") == PHONE
        assert dark.execute_script(f"return {root}.scrollWidth") == PHONE, "the page scrolls sideways"
        paper = dark.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(18, 23, 29)"
