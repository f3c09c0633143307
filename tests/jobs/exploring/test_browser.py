"""Pages in a real browser, by what a person does: open, filter, sort, click, play, compare."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.helpers import NEEDS_BROWSER
from whisper_gpt.jobs import cli
from whisper_gpt.manifests.fragments import read_samples

pytestmark = [pytest.mark.slow, NEEDS_BROWSER]


@pytest.fixture(scope="module")
def address(dataset: Path) -> Iterator[str]:
    """The page of the dataset, beside itself, served by the verb."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "whisper_gpt.jobs.cli", "explore", str(dataset), str(dataset)]
    server = subprocess.Popen([*command, "--no-browser", f"--port={port}"], start_new_session=True)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def test_a_person_explores_a_dataset(address: str, browser: webdriver.Chrome, dataset: Path) -> None:
    rows = read_samples(dataset)
    _open(browser, address)
    _wait_for(browser, f"{rows.num_rows} of {rows.num_rows} samples")

    _drag_over_left_part(browser, "//*[@data-testid='stVegaLiteChart']")
    WebDriverWait(browser, 60).until(lambda b: _shown(b, rows.num_rows) < rows.num_rows)
    assert _shown(browser, rows.num_rows) > 0
    browser.refresh()
    _wait_for(browser, f"{rows.num_rows} of {rows.num_rows} samples")

    condition = "segment = 1 and speaker <> ''"
    chosen = [row for row in rows.to_pylist() if row["segment"] == 1 and row["speaker"]]
    _element(browser, "//*[@aria-label='SQL condition']").send_keys(condition, Keys.ENTER)
    _wait_for(browser, f"{len(chosen)} of {rows.num_rows} samples")

    _element(browser, "//*[contains(text(), 'largest first')]").click()
    _click_first_row(browser)
    last = max(chosen, key=lambda row: row["key"])
    _wait_for(browser, last["key"])

    first = min(row["key"] for row in rows.to_pylist() if row["source"] == last["source"])
    _element(browser, "//*[contains(text(), 'neighbours in the recording')]").click()
    _click_first_row(browser, table=1)  # another sample than the one that is chosen in the upper table
    WebDriverWait(browser, 60).until(lambda b: first in b.current_url)
    assert first != last["key"]

    for number in range(1, 6):  # the original, and 1, 2, 4 and 8 codebooks
        assert _element(browser, f"(//audio)[{number}]").get_attribute("src").startswith(address)
    player = _element(browser, "(//audio)[5]")
    browser.execute_script("arguments[0].muted = true; arguments[0].play()", player)
    WebDriverWait(browser, 20).until(lambda b: b.execute_script("return arguments[0].currentTime > 0.2", player))

    _element(browser, "//*[text()='compare']").click()
    _wait_for(browser, "source, or a part of its path")
    assert _hosts(browser) == {urlparse(address).netloc}  # nothing was asked of any other machine


def test_a_table_of_the_inspect_page_is_sorted_by_a_click(
    browser: webdriver.Chrome, dataset: Path, tmp_path: Path
) -> None:
    assert cli.main(["inspect", str(dataset), "--html", str(tmp_path / "page.html")]) == 0
    browser.get((tmp_path / "page.html").as_uri())
    heading = browser.find_element(By.XPATH, "//th[text()='frames']")

    def frames() -> list[int]:
        cells = heading.find_elements(By.XPATH, "./ancestor::table//td[4]")
        return [int(cell.text) for cell in cells]

    before = frames()
    heading.click()
    assert frames() == sorted(before) != before
    heading.click()
    assert frames() == sorted(before, reverse=True)


def _open(browser: webdriver.Chrome, address: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            browser.get(address)
            return
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _wait_for(browser: webdriver.Chrome, text: str) -> None:
    WebDriverWait(browser, 60, ignored_exceptions=(Exception,)).until(
        lambda b: text in b.find_element(By.TAG_NAME, "body").text
    )


def _element(browser: webdriver.Chrome, path: str) -> WebElement:
    """Return the element at an XPath, once the page has finished what it was doing."""
    time.sleep(0.5)  # until it has begun to act on what was done before
    idle = "[data-testid=stApp][data-test-script-state=notRunning]"
    WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, idle))
    return WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.XPATH, path))[0]


def _click_first_row(browser: webdriver.Chrome, table: int = 0) -> None:
    """Click the box before the first row of one of the tables; they are canvases, with rows 35 pixels high."""
    shown = _element(browser, f"(//*[@data-testid='stDataFrame'])[{table + 1}]")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", shown)
    time.sleep(0.5)  # the page scrolls smoothly
    move = webdriver.ActionChains(browser).move_to_element_with_offset(
        shown, 15 - shown.size["width"] // 2, 52 - shown.size["height"] // 2
    )
    move.click().perform()


def _drag_over_left_part(browser: webdriver.Chrome, path: str) -> None:
    """Select the left part of a chart with the mouse."""
    chart = _element(browser, path)
    left, middle = -chart.size["width"] // 2 + 40, -20
    move = webdriver.ActionChains(browser).move_to_element_with_offset(chart, left, middle).click_and_hold()
    move.move_by_offset(chart.size["width"] // 3, 5).release().perform()


def _shown(browser: webdriver.Chrome, total: int) -> int:
    """Return the number of samples that the page says are left."""
    text = _element(browser, f"//*[contains(text(), ' of {total} samples')]").text
    return int(text.split(" of ")[0].replace(",", ""))


def _hosts(browser: webdriver.Chrome) -> set[str]:
    """Return the hosts that the page has sent requests to."""
    hosts = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            url = message["params"].get("url") or message["params"]["request"]["url"]
            if urlparse(url).scheme in ("http", "https", "ws", "wss"):
                hosts.add(urlparse(url).netloc)
    return hosts
