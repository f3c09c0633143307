"""The codec: causal to the bit, and the same when streamed, batched, or run by the `encodec` package in one pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from whisper_gpt.jobs.benchmarks.codec_speed import stock_audio, stock_codes
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec.causal import CHUNK_FRAMES, Codec
from whisper_gpt.pipeline.codec.streaming import StreamState, join


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise of varying loudness, so that frames differ."""
    random = np.random.default_rng(seed)
    envelope = np.repeat(random.uniform(0.01, 0.3, samples // 800 + 1), 800)[:samples]
    return (random.standard_normal(samples) * envelope).astype(np.float32)


def encode_in_chunks(codec: Codec, wav: np.ndarray, frames: list[int]) -> np.ndarray:
    """Codes of `wav` encoded in chunks of `frames` frames, cycling through the list."""
    samples = torch.from_numpy(np.pad(wav, (0, -len(wav) % codec.hop)))[None]
    state, codes, at, turn = codec.encoder_start, [], 0, 0
    while at < samples.shape[1]:
        end = at + frames[turn % len(frames)] * codec.hop
        part, state = codec.encode_chunk(state, samples[:, at:end])
        codes.append(part[0])
        at, turn = end, turn + 1
    return torch.cat(codes, dim=-1).numpy()


def decode_in_chunks(codec: Codec, codes: np.ndarray, frames: int) -> np.ndarray:
    state, audio = codec.decoder_start(len(codes)), []
    for chunk in torch.from_numpy(codes)[None].split(frames, dim=-1):
        samples, state = codec.decode_chunk(state, chunk)
        audio.append(samples[0])
    return torch.cat(audio).numpy()


def test_codes_equal_those_of_the_encodec_package(any_codec: Codec) -> None:
    wav = noise(70_000)
    codes = any_codec.encode(wav)
    assert codes.dtype == np.int16 and codes.shape == (8, 219)
    assert np.array_equal(codes, stock_codes(any_codec, wav))


def test_decoded_audio_equals_the_encodec_package(any_codec: Codec) -> None:
    codes = any_codec.encode(noise(64_000))
    assert np.abs(any_codec.decode(codes) - stock_audio(any_codec, codes)).max() < 1e-5


@pytest.mark.parametrize("frames", [1, 2, 7, 75, 750])
def test_streaming_equals_one_pass(any_codec: Codec, frames: int) -> None:
    wav = noise(60_000, seed=1)
    codes = encode_in_chunks(any_codec, wav, [frames])
    assert np.array_equal(codes, stock_codes(any_codec, wav))
    assert np.abs(decode_in_chunks(any_codec, codes, frames) - stock_audio(any_codec, codes)).max() < 1e-5


@settings(max_examples=15)
@given(frames=st.lists(st.integers(1, 90), min_size=1, max_size=6), samples=st.integers(1, 60_000))
def test_any_mix_of_chunks_gives_the_same_codes(codec: Codec, frames: list[int], samples: int) -> None:
    wav = noise(samples, seed=len(frames))
    assert np.array_equal(encode_in_chunks(codec, wav, frames), codec.encode(wav))


@pytest.mark.parametrize("frames", [CHUNK_FRAMES, 40, 1])
@pytest.mark.parametrize("signals", [1, 2, 7, 8, 9])
def test_signal_is_encoded_bit_for_bit_as_in_any_other_batch(any_codec: Codec, signals: int, frames: int) -> None:
    """Codes alone would hide a rounding difference, which flips only near ties: states and audio are compared too."""
    wavs = torch.from_numpy(np.stack([noise(frames * any_codec.hop, seed) for seed in range(11)]))
    _, states = any_codec.encode_chunk(join([any_codec.encoder_start] * 11), wavs)
    codes, after = any_codec.encode_chunk(states, wavs.flip(1))
    audio, _ = any_codec.decode_chunk(join([any_codec.decoder_start(8)] * 11), codes, batch_independent=True)
    rows = np.random.default_rng(signals).permutation(11)[:signals].tolist()
    chosen = join([states[row : row + 1] for row in rows])
    chosen_codes, chosen_after = any_codec.encode_chunk(chosen, wavs.flip(1)[rows])
    assert len(chosen_after) == signals
    assert torch.equal(chosen_codes, codes[rows])
    assert all(torch.equal(a, b[rows]) for a, b in zip(chosen_after.carried, after.carried, strict=True))
    starts = join([any_codec.decoder_start(8)] * signals)
    chosen_audio, _ = any_codec.decode_chunk(starts, chosen_codes, batch_independent=True)
    assert torch.equal(chosen_audio, audio[rows])
    faster_audio, _ = any_codec.decode_chunk(starts, chosen_codes)
    assert (faster_audio - chosen_audio).abs().max() < 1e-5
    assert frames > 1 or torch.equal(faster_audio, chosen_audio)


def test_stream_state_survives_serialization(codec: Codec) -> None:
    """A state consists of tensors only: after a round trip through safetensors the stream continues unchanged."""
    wav = torch.from_numpy(noise(100 * codec.hop))[None]
    first, state = codec.encode_chunk(codec.encoder_start, wav[:, : 30 * codec.hop])
    stored = save({f"{i:02d}": tensor for i, tensor in enumerate(state.carried)})
    loaded = load(stored)
    restored = StreamState(tuple(loaded[name] for name in sorted(loaded)))
    rest, _ = codec.encode_chunk(restored, wav[:, 30 * codec.hop :])
    assert np.array_equal(torch.cat([first, rest], dim=-1)[0].numpy(), codec.encode(wav[0]))


def test_encode_chunk_does_not_modify_its_state(codec: Codec) -> None:
    wav = torch.from_numpy(noise(20 * codec.hop))[None]
    before = [tensor.clone() for tensor in codec.encoder_start.carried]
    first, _ = codec.encode_chunk(codec.encoder_start, wav)
    second, _ = codec.encode_chunk(codec.encoder_start, wav)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, codec.encoder_start.carried, strict=True))


@pytest.mark.parametrize("t", [0, 1, 2, 3, 40, 98])
def test_codes_are_independent_of_later_samples(any_codec: Codec, t: int) -> None:
    hop, wav = any_codec.hop, noise(100 * any_codec.hop)
    changed = wav.copy()
    changed[hop * (t + 1) :] = noise(len(wav), seed=5)[hop * (t + 1) :] * 4
    before, after = any_codec.encode(wav), any_codec.encode(changed)
    assert np.array_equal(before[:, : t + 1], after[:, : t + 1])
    assert not np.array_equal(before[:, t + 1 :], after[:, t + 1 :])


@pytest.mark.parametrize("t", [0, 1, 3, 50])
def test_decoded_samples_are_independent_of_later_codes(any_codec: Codec, t: int) -> None:
    codes = any_codec.encode(noise(60 * any_codec.hop))
    changed = codes.copy()
    changed[:, t + 1 :] = (changed[:, t + 1 :] + 7) % 1024
    before, after = any_codec.decode(codes), any_codec.decode(changed)
    decoded = any_codec.hop * (t + 1)
    assert np.array_equal(before[:decoded], after[:decoded])
    assert not np.array_equal(before[decoded:], after[decoded:])


def test_invalid_chunks_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="whole number of 320-sample frames"):
        codec.encode_chunk(codec.encoder_start, torch.zeros(1, 1000))
    with pytest.raises(ValueError, match="9 codebooks"):
        codec.decode_chunk(codec.decoder_start(8), torch.zeros(1, 9, 1, dtype=torch.int16))


def test_fewer_codebooks_are_a_prefix(codec: Codec) -> None:
    wav = noise(20_000)
    coarse = Codec(codec.name, codec.weights_sha256, 1, codec.net)
    assert np.array_equal(coarse.encode(wav), codec.encode(wav)[:1])


def test_small_codec_uses_many_codes(codec: Codec, synthetic_corpora: Path) -> None:
    files = sorted((synthetic_corpora / "LibriSpeech").rglob("*.flac"))[:4]
    codes = np.concatenate([codec.encode(read_mono(file)) for file in files], axis=1)
    for codebook_codes in codes:
        share = np.bincount(codebook_codes) / len(codebook_codes)
        share = share[share > 0]
        assert -(share * np.log2(share)).sum() > 5  # of at most 10 bits


def test_real_speech_streams_exactly(real_data: Path, any_codec: Codec) -> None:
    file = min((real_data / "LibriSpeech" / "test-clean").rglob("*.flac"), key=lambda path: path.stat().st_size)
    wav = read_mono(file)
    expected = stock_codes(any_codec, wav)
    for frames in (1, 2, 7, 75, 750):
        assert np.array_equal(encode_in_chunks(any_codec, wav, [frames]), expected)
    assert np.abs(any_codec.decode(expected) - stock_audio(any_codec, expected)).max() < 1e-5
