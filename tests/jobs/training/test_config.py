"""The model of a training run: a preset, a JSON file or custom sizes; invalid descriptions are refused."""

import json
from pathlib import Path

import pytest
import torch

from whisper_gpt.jobs.common.errors import UsageError
from whisper_gpt.jobs.training import distributed
from whisper_gpt.jobs.training.config import Config, model_config
from whisper_gpt.model.config import PRESETS, ModelConfig
from whisper_gpt.model.errors import ModelError


def chosen_model(model: str, **sizes: int) -> ModelConfig:
    return model_config(Config((), Path(), model=model, **sizes))


def test_presets_and_custom_sizes() -> None:
    assert chosen_model("gpt-4m") == PRESETS["gpt-4m"]
    resized = chosen_model("hybrid-4m", width=64, layers=1, heads=2)
    assert (resized.width, resized.layers, resized.heads, resized.mel_bands) == (64, 1, 2, 64)
    assert resized.name == "hybrid-4m-width64-layers1-heads2"


def test_json_file_describes_a_model(tmp_path: Path) -> None:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"width": 32, "layers": 1, "heads": 2, "mel_bands": 64, "mel_noise": 0.5}))
    config = chosen_model(str(path))
    assert (config.name, config.width, config.mel_noise, config.hybrid) == ("tiny", 32, 0.5, True)
    assert chosen_model(str(path), layers=3).layers == 3


@pytest.mark.parametrize(
    "content", ['{"widht": 32}', '{"width": "32"}', '{"width": 32.5}', "[]", "no json", '{"context": 3}']
)
def test_invalid_model_descriptions_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"odd\.json"):
        chosen_model(str(path))
    for absent in ("gpt-5", str(tmp_path / "absent.json")):
        with pytest.raises(UsageError):
            chosen_model(absent)


def test_incompatible_sizes_are_refused() -> None:
    with pytest.raises(ModelError):
        chosen_model("gpt-4m", heads=3)


def test_auto_precision_is_bf16_on_gpus_that_compute_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert distributed.choose_precision("auto", cpu) == "fp32"  # the same numbers on every CPU
    for computed, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, computed=computed: computed)
        assert distributed.choose_precision("auto", gpu) == precision
    assert distributed.choose_precision("bf16", cpu) == "bf16"
