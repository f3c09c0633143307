"""The codec: causal to the bit, the same in a stream, in a batch and in the package's one pass."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from whisper_gpt.jobs.benchmarks.codec_speed import stock_audio, stock_codes
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.streaming import StreamState, join


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose loudness wanders, so that frames differ."""
    random = np.random.default_rng(seed)
    envelope = np.repeat(random.uniform(0.01, 0.3, samples // 800 + 1), 800)[:samples]
    return (random.standard_normal(samples) * envelope).astype(np.float32)


def encode_in_chunks(codec: Codec, wav: np.ndarray, frames: list[int]) -> np.ndarray:
    """Codes of `wav`, encoded in chunks of `frames` frames, over and over to its end."""
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


def test_codes_equal_the_packages_own(any_codec: Codec) -> None:
    wav = noise(70_000)
    codes = any_codec.encode(wav)
    assert codes.dtype == np.int16 and codes.shape == (8, 219)
    assert np.array_equal(codes, stock_codes(any_codec, wav))


def test_decoded_audio_equals_the_packages_own(any_codec: Codec) -> None:
    codes = any_codec.encode(noise(64_000))
    assert np.abs(any_codec.decode(codes) - stock_audio(any_codec, codes)).max() < 1e-5


@pytest.mark.parametrize("frames", [1, 2, 7, 75, 750])
def test_a_stream_equals_one_pass(any_codec: Codec, frames: int) -> None:
    wav = noise(60_000, seed=1)
    codes = encode_in_chunks(any_codec, wav, [frames])
    assert np.array_equal(codes, stock_codes(any_codec, wav))
    assert np.abs(decode_in_chunks(any_codec, codes, frames) - stock_audio(any_codec, codes)).max() < 1e-5


@settings(max_examples=15)
@given(frames=st.lists(st.integers(1, 90), min_size=1, max_size=6), samples=st.integers(1, 60_000))
def test_any_mix_of_chunks_gives_the_same_codes(codec: Codec, frames: list[int], samples: int) -> None:
    wav = noise(samples, seed=len(frames))
    assert np.array_equal(encode_in_chunks(codec, wav, frames), codec.encode(wav))


def test_a_batch_equals_its_signals_one_by_one(any_codec: Codec) -> None:
    wavs = np.stack([noise(40 * any_codec.hop, seed) for seed in range(5)])
    single = [any_codec.encode_chunk(any_codec.encoder_start, torch.from_numpy(wav)[None]) for wav in wavs]
    codes, states = any_codec.encode_chunk(join([any_codec.encoder_start] * 5), torch.from_numpy(wavs))
    assert torch.equal(codes, torch.cat([own for own, _ in single]))
    assert len(states) == 5
    for row, (_, own) in enumerate(single):
        for one, other in zip(states[row : row + 1].carried, own.carried, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    starts = join([any_codec.decoder_start(8)] * 5)
    audio, _ = any_codec.decode_chunk(starts, codes)
    for row in range(5):
        own, _ = any_codec.decode_chunk(any_codec.decoder_start(8), codes[row : row + 1])
        assert (audio[row] - own[0]).abs().max() < 1e-5


def test_a_state_survives_being_stored(codec: Codec) -> None:
    """A state is tensors and no more: through safetensors and back, the stream continues as if nothing had happened."""
    wav = torch.from_numpy(noise(100 * codec.hop))[None]
    first, state = codec.encode_chunk(codec.encoder_start, wav[:, : 30 * codec.hop])
    stored = save({f"{i:02d}": tensor for i, tensor in enumerate(state.carried)})
    loaded = load(stored)
    restored = StreamState(tuple(loaded[name] for name in sorted(loaded)))
    rest, _ = codec.encode_chunk(restored, wav[:, 30 * codec.hop :])
    assert np.array_equal(torch.cat([first, rest], dim=-1)[0].numpy(), codec.encode(wav[0]))


def test_a_step_leaves_the_state_it_began_with(codec: Codec) -> None:
    wav = torch.from_numpy(noise(20 * codec.hop))[None]
    before = [tensor.clone() for tensor in codec.encoder_start.carried]
    once, _ = codec.encode_chunk(codec.encoder_start, wav)
    again, _ = codec.encode_chunk(codec.encoder_start, wav)
    assert torch.equal(once, again)
    assert all(torch.equal(a, b) for a, b in zip(before, codec.encoder_start.carried, strict=True))


@pytest.mark.parametrize("t", [0, 1, 2, 3, 40, 98])
def test_no_code_sees_the_future(any_codec: Codec, t: int) -> None:
    hop, wav = any_codec.hop, noise(100 * any_codec.hop)
    other = wav.copy()
    other[hop * (t + 1) :] = noise(len(wav), seed=5)[hop * (t + 1) :] * 4
    before, after = any_codec.encode(wav), any_codec.encode(other)
    assert np.array_equal(before[:, : t + 1], after[:, : t + 1])
    assert not np.array_equal(before[:, t + 1 :], after[:, t + 1 :])


@pytest.mark.parametrize("t", [0, 1, 3, 50])
def test_no_decoded_sample_sees_a_later_code(any_codec: Codec, t: int) -> None:
    codes = any_codec.encode(noise(60 * any_codec.hop))
    other = codes.copy()
    other[:, t + 1 :] = (other[:, t + 1 :] + 7) % 1024
    before, after = any_codec.decode(codes), any_codec.decode(other)
    seen = any_codec.hop * (t + 1)
    assert np.array_equal(before[:seen], after[:seen])
    assert not np.array_equal(before[seen:], after[seen:])


def test_what_a_stream_cannot_take_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="whole number of 320-sample frames"):
        codec.encode_chunk(codec.encoder_start, torch.zeros(1, 1000))
    with pytest.raises(ValueError, match="9 codebooks"):
        codec.decode_chunk(codec.decoder_start(8), torch.zeros(1, 9, 1, dtype=torch.int16))


def test_fewer_codebooks_are_the_first_of_more(codec: Codec) -> None:
    wav = noise(20_000)
    coarse = Codec(codec.name, codec.weights_sha256, 1, codec.net)
    assert np.array_equal(coarse.encode(wav), codec.encode(wav)[:1])


def test_codes_are_varied(codec: Codec, synthetic_corpora: Path) -> None:
    files = sorted((synthetic_corpora / "LibriSpeech").rglob("*.flac"))[:4]
    codes = np.concatenate([codec.encode(read_mono(file)) for file in files], axis=1)
    for book in codes:
        share = np.bincount(book) / len(book)
        share = share[share > 0]
        assert -(share * np.log2(share)).sum() > 5  # of at most 10 bits


def test_real_speech_streams_exactly(real_data: Path, any_codec: Codec) -> None:
    file = sorted((real_data / "LibriSpeech" / "test-clean").rglob("*.flac"))[0]
    wav = read_mono(file)
    expected = stock_codes(any_codec, wav)
    for frames in (1, 2, 7, 75, 750):
        assert np.array_equal(encode_in_chunks(any_codec, wav, [frames]), expected)
    assert np.abs(any_codec.decode(expected) - stock_audio(any_codec, expected)).max() < 1e-5
