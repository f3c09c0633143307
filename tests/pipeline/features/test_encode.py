"""Encoding to aligned segments: cutting changes no value, and codes and mel cover the same samples."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.features import encode as align
from whisper_gpt.pipeline.features.encode import Segment, align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig


def align_segments(
    blocks: Iterable[np.ndarray], codec: Codec, log_mel: LogMel, segment_frames: int
) -> Iterator[Segment]:
    """Return the segments of one recording."""
    return next(align_recordings([blocks], codec, log_mel, segment_frames))


def noise(samples: int) -> np.ndarray:
    return (np.random.default_rng(3).standard_normal(samples) * 0.1).astype(np.float32)


def test_segments_concatenate_to_the_whole_encoding(codec: Codec, log_mel: LogMel) -> None:
    wav = noise(5 * 24_000 + 777)
    segments = list(align_segments([wav], codec, log_mel, segment_frames=150))
    assert [s.samples for s in segments] == [48_000, 48_000, 24_777]
    assert [s.start_sample for s in segments] == [0, 48_000, 96_000]
    assert np.array_equal(np.concatenate([s.codes for s in segments], axis=1), codec.encode(wav))
    whole = log_mel(torch.from_numpy(wav)).numpy()
    assert np.abs(np.concatenate([s.mel for s in segments]).astype(np.float32) - whole).max() < 0.01
    for segment in segments:
        assert segment.codes.shape[1] == len(segment.mel) == -(-segment.samples // 320)


@pytest.mark.parametrize("size", [1000, 24_000, 31_111])
def test_segments_are_independent_of_the_blocks(codec: Codec, log_mel: LogMel, size: int) -> None:
    wav = noise(3 * 24_000)
    cuts = [*range(0, len(wav), size), len(wav)]
    blocks = [wav[a:b] for a, b in pairwise(cuts)]
    for expected, actual in zip(
        align_segments([wav], codec, log_mel, 100), align_segments(blocks, codec, log_mel, 100), strict=True
    ):
        assert np.array_equal(expected.codes, actual.codes) and np.array_equal(expected.mel, actual.mel)


def test_peak_rms_and_clipping_levels(codec: Codec, log_mel: LogMel) -> None:
    wav = np.concatenate([np.zeros(32_000), np.full(32_000, 0.5), np.ones(32_000)]).astype(np.float32)
    silent, half, full = align_segments([wav], codec, log_mel, 100)
    assert (silent.peak_dbfs, silent.rms_dbfs, silent.clipped_share) == (-120, -120, 0)
    assert half.peak_dbfs == pytest.approx(-6.02, abs=0.01) and half.rms_dbfs == pytest.approx(-6.02, abs=0.01)
    assert (full.peak_dbfs, full.clipped_share) == (0, 1)


@pytest.mark.parametrize("segment_frames", [1, 40, 76, 200])
def test_segment_length_changes_no_value(codec: Codec, log_mel: LogMel, segment_frames: int) -> None:
    wav = noise(2 * 24_000 + 5)
    segments = list(align_segments([wav], codec, log_mel, segment_frames))
    whole = next(align_segments([wav], codec, log_mel, 1000))
    assert np.array_equal(np.concatenate([s.codes for s in segments], axis=1), whole.codes)
    assert np.array_equal(np.concatenate([s.mel for s in segments]), whole.mel)
    assert sum(s.samples for s in segments) == len(wav)


def test_audio_without_a_finite_mel_is_refused(codec: Codec, log_mel: LogMel) -> None:
    with pytest.raises(AudioError, match="no finite mel"):
        list(align_segments([np.full(1000, 1e30, np.float32)], codec, log_mel, 100))


def test_empty_recording_has_no_segments(codec: Codec, log_mel: LogMel) -> None:
    assert list(align_segments([], codec, log_mel, 100)) == []


@pytest.mark.parametrize("slots", [1, 3, 8, 128])
def test_batched_recordings_match_single_ones(codec: Codec, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings of many lengths end at different times and free their slots; 128 is the slot count on a GPU."""
    monkeypatch.setattr(align, "_BATCH_SLOTS", {"cpu": slots})
    log_mel = LogMel(MelConfig(variants=("audio", "codes-8")))
    wavs = [noise(length) for length in (50_000, 100, 24_000, 0, 130_000, 24_001, 70_000, 30_000, 1, 48_000, 90_000)]
    together = align_recordings([[wav] for wav in wavs], codec, log_mel, 100)
    for wav, segments in zip(wavs, together, strict=True):
        alone, batched = list(align_segments([wav], codec, log_mel, 100)), list(segments)
        assert len(alone) == len(batched)
        for expected, actual in zip(alone, batched, strict=True):
            assert (expected.start_sample, expected.samples, expected.rms_dbfs) == (
                actual.start_sample,
                actual.samples,
                actual.rms_dbfs,
            )
            assert np.array_equal(expected.codes, actual.codes) and np.array_equal(expected.mels, actual.mels)


def test_failing_recording_does_not_affect_others(codec: Codec, log_mel: LogMel) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield noise(60_000)
        raise AudioError("decode", "the file ends here")

    recordings = [[noise(50_000)], broken(), [np.full(30_000, 1e30, np.float32)], [noise(80_000)]]
    outcomes: list[int | str] = []
    for segments in align_recordings(recordings, codec, log_mel, 100):
        try:
            outcomes.append(sum(segment.samples for segment in segments))
        except AudioError as error:
            outcomes.append(error.stage)
    assert outcomes == [50_000, "decode", "encode", 80_000]
