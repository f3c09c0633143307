"""Training runs and a browser, shared by several test files."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.helpers import CHROMIUM, DRIVER, train_context_64

_SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1400,1700"),
    "--autoplay-policy=no-user-gesture-required",
)


@pytest.fixture(scope="module")
def runs(tiny_presets: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A hybrid and a token-only run of 12 steps each, with checkpoints after steps 6 and 12."""
    root = tmp_path_factory.mktemp("runs")
    for model in ("hybrid-4m", "gpt-4m"):
        assert train_context_64(dataset, root / model, "--model", model, "--steps=12", "--save-every=6") == 0
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with a profile of its own."""
    options = Options()
    options.binary_location = CHROMIUM or ""
    for switch in (*_SWITCHES, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()
