"""Mel variants: of decoded codes with no other input, and a control with exactly the stated lookahead."""

import copy
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch

from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.streaming import join
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig, lookahead_samples
from whisper_gpt.pipeline.features.mel_variants import MelVariants, with_lookahead

VARIANTS = ("audio", "codes-1", "codes-8", "centred-2048")


def noise(samples: int, seed: int = 3) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(samples) * 0.1).astype(np.float32)


def variants_of(wav: np.ndarray, codec: Codec, segment_frames: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Codes `[K, T]` and all variants `[V, T, M]` of one recording, encoded next to a shorter and a longer one."""
    others = [noise(30_000), noise(100_000)]
    aligned = align_recordings(
        [[others[0]], [wav], [others[1]]], codec, LogMel(MelConfig(variants=VARIANTS)), segment_frames
    )
    segments = [list(recording) for recording in aligned][1]
    codes = np.concatenate([s.codes for s in segments], axis=1)
    return codes, np.concatenate([np.concatenate([s.mel[None], s.mel_variants]) for s in segments], axis=1)


@pytest.mark.parametrize("samples", [24_000 * 3 + 777, 24_000 * 2 + 320, 24_000 * 2, 24_000 + 100, 300])
def test_each_variant_is_the_mel_of_its_source(codec: Codec, log_mel: LogMel, samples: int) -> None:
    wav = noise(samples)
    codes, variants = variants_of(wav, codec)
    expected = [log_mel(torch.from_numpy(wav)).numpy()]
    expected += [log_mel(torch.from_numpy(codec.decode(codes[:codebooks]))).numpy() for codebooks in (1, 8)]
    for variant, expected_mel in zip(variants, expected, strict=False):
        assert np.abs(variant.astype(np.float32) - expected_mel).max() < 0.02
    padded = np.pad(wav, (0, -samples % 320))
    power = librosa.feature.melspectrogram(
        y=padded, sr=24_000, n_fft=2048, hop_length=320, n_mels=64, center=True, pad_mode="constant"
    )
    centred = np.log10(np.maximum(power.T[: len(variants[3])], 1e-10))
    assert np.abs(variants[3].astype(np.float32) - centred).max() < 0.02


@pytest.mark.parametrize("t", [0, 40, 80, 110])
def test_code_variants_are_causal_and_the_control_leaks(codec: Codec, t: int) -> None:
    wav = noise(24_000 * 2)
    changed = wav.copy()
    changed[320 * (t + 1) :] = noise(len(wav) - 320 * (t + 1), seed=5)
    (codes, variants), (codes_2, variants_2) = variants_of(wav, codec), variants_of(changed, codec)
    assert np.array_equal(codes[:, : t + 1], codes_2[:, : t + 1])
    for variant in range(3):
        assert np.array_equal(variants[variant, : t + 1], variants_2[variant, : t + 1])
    ahead = lookahead_samples("centred-2048")
    assert ahead == 704
    first_touched = t - ahead // 320  # its window ends 704 samples later, two frames and a bit
    assert not np.array_equal(variants[3, max(0, first_touched) : t + 1], variants_2[3, max(0, first_touched) : t + 1])


def test_variant_of_one_codebook_ignores_the_others(codec: Codec) -> None:
    """codes-1 is the mel of codebook 0 decoded alone, which differs from the mel of all codebooks."""
    codes, variants = variants_of(noise(48_000), codec)
    log_mel = LogMel(MelConfig())
    first_only, all_eight = (log_mel(torch.from_numpy(codec.decode(codes[:codebooks]))).numpy() for codebooks in (1, 8))
    assert np.allclose(variants[1].astype(np.float32), first_only, atol=0.02)
    assert np.allclose(variants[2].astype(np.float32), all_eight, atol=0.02)
    assert np.abs(first_only - all_eight).max() > 0.1


def test_all_tensors_are_on_the_device_of_the_codec(codec: Codec) -> None:
    """Shown by torch's meta device, which computes no values: with a tensor elsewhere, or a value read, it raises."""
    on_device = replace(codec, net=copy.deepcopy(codec.net).to("meta"))
    variants = MelVariants(on_device, LogMel(MelConfig(variants=VARIANTS), on_device.device))
    wav, ahead = (torch.empty(2, samples, device="meta") for samples in (24_000, variants.lookahead))
    codes, _ = on_device.encode_chunk(join([on_device.encoder_start] * 2), wav)
    mel, states = variants.step([variants.start] * 2, codes, wav, ahead)
    carried = [context for state in states for context in state.contexts]
    carried += [tensor for state in states for decoder in state.decoders if decoder for tensor in decoder.carried]
    assert {tensor.device.type for tensor in (codes, mel, *carried)} == {"meta"}
    assert mel.shape == (2, 75, len(VARIANTS), 64)


def test_with_lookahead_yields_chunks_and_lookahead() -> None:
    chunks = [np.arange(4), np.arange(4, 8), np.arange(8, 9)]
    assert [(c.tolist(), a.tolist()) for c, a in with_lookahead(chunks, 2)] == [
        ([0, 1, 2, 3], [4, 5]),
        ([4, 5, 6, 7], [8, 0]),
        ([8], [0, 0]),
    ]
    assert [len(a) for _, a in with_lookahead(chunks, 0)] == [0, 0, 0]
    assert list(with_lookahead([], 2)) == []


def test_unknown_variants_are_refused() -> None:
    assert MelConfig(variants=["audio"]).variants == ("audio",)  # type: ignore[arg-type]
    with pytest.raises(PipelineError, match="'sound'"):
        MelConfig(variants=("sound",))
