"""Signatures of failures: a stream that is ignored, codes that collapse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.jobs.training.small_runs import train_context_32
from whisper_gpt.jobs.training.signatures import Withheld, code_spread, withheld
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.pipeline.loading.batch import Batch

SMALL = ModelConfig(
    "small", vocab=16, context=32, width=32, layers=1, heads=2, mel_bands=4, mel_width=16, mel_layers=1, mel_heads=2
)


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(16, (4, 1, 32), generator=generator)
    return Batch(
        codes=codes,
        mel=torch.randn(4, 32, 4, generator=generator),
        mask=torch.ones(4, 32, dtype=torch.bool),
        doc_ids=None,
        keys=[(str(i),) for i in range(4)],
        starts=[(0,)] * 4,
    )


@pytest.mark.parametrize(("ignored", "column"), [("mel", slice(32, 48)), ("tokens", slice(0, 32))])
def test_ignored_stream_is_found(batch: Batch, ignored: str, column: slice) -> None:
    torch.manual_seed(0)
    model = HybridLM(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        assert model.fuse.weight.shape[1] == 48  # the tokens' 32 columns, then the mel's 16
        model.fuse.weight[:, column] = 0
    result = withheld(model, batch)
    assert getattr(result, ignored) == 0 != getattr(result, "tokens" if ignored == "mel" else "mel")
    assert model.training


def test_warning_names_the_ignored_stream() -> None:
    assert "ignores its tokens" in str(Withheld(mel=0.8, tokens=0.01).warning())
    assert "ignores its mel" in str(Withheld(mel=-0.01, tokens=0.5).warning())
    assert Withheld(mel=0.3, tokens=0.2).warning() is None
    assert Withheld(mel=0.001, tokens=0.02).warning() is None  # nothing learnt yet
    assert Withheld(mel=float("nan"), tokens=float("nan")).warning() is None  # a batch without a readable frame


def test_drone_is_found() -> None:
    real = np.random.default_rng(0).integers(0, 50, 300)
    drone = np.where(np.arange(200) % 10 == 0, 1, 7)
    warning = code_spread(drone, real).warning()
    assert warning is not None and "drones" in warning and "90%" in warning
    assert code_spread(real[::-1], real).warning() is None
    assert code_spread(drone[:40], real).warning() is None  # too short to tell
    assert code_spread(drone, real).frames == 200


def test_signatures_are_in_tensorboard(tiny_presets: None, dataset: Path, tmp_path: Path) -> None:
    options = ["--model=hybrid-4m", "--steps=2", "--eval-every=2", "--clip-s=0.2"]
    assert train_context_32(dataset, tmp_path / "run", *options) == 0
    tags = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload().Tags()["scalars"]
    assert {"signature/withheld_mel", "signature/withheld_tokens", "signature/codes_entropy"} <= set(tags)
    assert {"signature/codes_real_entropy", "signature/codes_commonest"} <= set(tags)
