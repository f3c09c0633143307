"""The verb: what Streamlit is told, and errors before it starts."""

from pathlib import Path

import pytest

from whisper_gpt.jobs import cli, explore


def test_streamlit_asks_and_tells_nobody() -> None:
    """Each of these would otherwise send something away, or wait for an answer in the terminal."""
    options = explore._options(explore.Config((Path("ls"),), address="0.0.0.0"))
    assert {"--server.showEmailPrompt=false", "--browser.gatherUsageStats=false"} <= set(options)
    assert {"--server.address=0.0.0.0", "--browser.serverAddress=localhost"} <= set(options)
    assert "--server.address=127.0.0.1" in explore._options(explore.Config((Path("ls"),)))


def test_errors_come_before_the_server(tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explore"]) == 2
    assert cli.main(["explore", str(tmp_path)]) == 1 and "dataset.json" in capsys.readouterr().err
    assert cli.main(["explore", str(dataset), "--runs", str(tmp_path)]) == 1
    assert "no checkpoints" in capsys.readouterr().err
