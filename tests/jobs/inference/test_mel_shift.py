"""A dataset whose mel differs from a model's training data is warned of."""

from dataclasses import replace
from pathlib import Path

import torch

from whisper_gpt.jobs.inference.mel_shift import mel_warning
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM

BANDS = 8
CONFIG = ModelConfig("small", width=16, layers=1, heads=1, mel_bands=BANDS, mel_width=16, mel_heads=1)


def info(mean: list[float]) -> DatasetInfo:
    mel = {"variants": ["audio", "codes-8"]}
    return DatasetInfo("c", "f", {}, mel, 5, [], {}, 0, 0.0, 0, [[9.0] * BANDS, mean], [[1.0] * BANDS] * 2)


def warning(model: HybridLM, mean: list[float]) -> str | None:
    return mel_warning(model, info(mean), "codes-8", Path("run"), Path("set"))


def test_a_shifted_mel_is_warned_of() -> None:
    model = HybridLM(CONFIG)
    model.mel_encoder.set_statistics(torch.full((BANDS,), -4.0), torch.full((BANDS,), 2.0))
    assert warning(model, [-3.5] * BANDS) is None
    assert "the mel of set is 1.0 standard deviations from that of run's" in (warning(model, [-2.0] * BANDS) or "")
    assert warning(HybridLM(replace(CONFIG, mel_bands=0)), [-2.0] * BANDS) is None
