"""Training runs shared by several test files."""

from pathlib import Path

import pytest

from tests.helpers import train_context_64


@pytest.fixture(scope="module")
def runs(tiny_presets: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A hybrid and a token-only run of 12 steps each, with checkpoints after steps 6 and 12."""
    root = tmp_path_factory.mktemp("runs")
    for model in ("hybrid-4m", "gpt-4m"):
        assert train_context_64(dataset, root / model, "--model", model, "--steps=12", "--save-every=6") == 0
    return {path.name: path for path in root.iterdir()}
