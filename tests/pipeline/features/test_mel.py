"""The log-mel: equal to librosa on the same windows, strictly causal, and the same when streamed."""

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.frames import frame_count


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize(("bands", "window"), [(64, 1024), (80, 2048), (128, 960)])
def test_mel_equals_librosa_on_the_same_windows(bands: int, window: int) -> None:
    wav = noise(24_000)
    padded = np.pad(wav.numpy(), (window - 320, -len(wav) % 320))
    power = (
        np.abs(librosa.stft(padded, n_fft=window, hop_length=320, win_length=window, window="hann", center=False)) ** 2
    )
    expected = np.log10(np.maximum(librosa.filters.mel(sr=24_000, n_fft=window, n_mels=bands) @ power, 1e-10)).T
    actual = LogMel(MelConfig(bands, window))(wav).numpy()
    assert actual.shape == expected.shape == (75, bands)
    assert np.abs(actual - expected).max() < 1e-4


@pytest.mark.parametrize("t", [0, 1, 2, 30, 73])
def test_mel_frame_is_independent_of_later_samples(log_mel: LogMel, t: int) -> None:
    wav = noise(24_000)
    changed = wav.clone()
    changed[320 * (t + 1) :] = noise(24_000 - 320 * (t + 1), seed=1) * 9
    before, after = log_mel(wav), log_mel(changed)
    assert torch.equal(before[: t + 1], after[: t + 1])
    assert not torch.equal(before[t + 1], after[t + 1])


def test_mel_frame_depends_on_its_last_sample(log_mel: LogMel) -> None:
    wav = noise(3_200)
    changed = wav.clone()
    changed[320 * 5 - 1] += 5.0
    assert not torch.equal(log_mel(wav)[4], log_mel(changed)[4])


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_streamed_mel_equals_one_pass(cuts: list[int]) -> None:
    log_mel = LogMel(MelConfig())
    wav = noise(sum(cuts) * 320)
    context, parts = log_mel.start(), []
    for chunk in wav.split([n * 320 for n in cuts]):
        mel, context = log_mel.step(context, chunk)
        parts.append(mel)
    assert torch.allclose(torch.cat(parts), log_mel(wav), atol=1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (319, 1), (320, 1), (321, 2), (24_000, 75)])
def test_frame_count(log_mel: LogMel, samples: int, frames: int) -> None:
    assert frame_count(samples) == frames
    assert len(log_mel(noise(samples))) == frames


def test_silence_has_the_minimum_log_mel(log_mel: LogMel) -> None:
    assert torch.all(log_mel(torch.zeros(960)) == -10.0)


@pytest.mark.parametrize(("bands", "window"), [(64, 300), (0, 1024), (600, 1024)])
def test_impossible_settings_are_refused(bands: int, window: int) -> None:
    with pytest.raises(PipelineError):
        MelConfig(bands, window)
