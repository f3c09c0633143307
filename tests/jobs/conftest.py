"""Training runs that several tests read."""

from pathlib import Path

import pytest

from tests.helpers import train


@pytest.fixture(scope="module")
def runs(tiny_presets: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A hybrid and a token-only run of 12 steps, with checkpoints after 6 and 12."""
    root = tmp_path_factory.mktemp("runs")
    for model in ("hybrid-4m", "gpt-4m"):
        assert train(dataset, root / model, "--model", model, "--steps=12", "--save-every=6") == 0
    return {path.name: path for path in root.iterdir()}
