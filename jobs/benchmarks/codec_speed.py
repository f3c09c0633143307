"""Encoding and decoding speed of a codec, against the `encodec` package's whole-signal pass over the same clips."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from whisper_gpt.jobs.benchmarks.timing import Timing, time_in_turn
from whisper_gpt.jobs.training.peak_flops import matrix_flops
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture
from whisper_gpt.pipeline.codec.causal import PREROLL_FRAMES, Codec, untrained_codec
from whisper_gpt.pipeline.codec.loading import load_codec

# The 24 kHz model's architecture with random weights, which runs at the same speed.
OFFICIAL_SHAPE = "official-shape"


def benchmarked_codec(name: str, codebooks: int) -> Codec:
    """Return the codec `name`, which may be `OFFICIAL_SHAPE`."""
    if name == OFFICIAL_SHAPE:
        return untrained_codec(CodecArchitecture(), codebooks)
    return load_codec(name, codebooks=codebooks)


@dataclass(frozen=True)
class EncodeSpeed:
    """Speeds in multiples of real time (seconds of audio per second). `ours_xrt` encodes all clips as one batch,
    `ours_one_xrt` one by one; `floor_xrt` is the roofline: the network's matrix products alone, at the speed of a
    square matrix product."""

    stock_xrt: Timing
    ours_xrt: Timing
    ours_one_xrt: Timing
    ratio: float
    codes_equal: float
    floor_xrt: float
    threads: int
    seconds: float


@dataclass(frozen=True)
class DecodeSpeed:
    """Speeds in multiples of real time; largest difference of a sample; milliseconds per frame in a stream."""

    stock_xrt: Timing
    ours_xrt: Timing
    ratio: float
    largest_difference: float
    frame_ms: Timing
    threads: int
    seconds: float


def encode_speed(codec: Codec, clips: np.ndarray, rounds: int) -> EncodeSpeed:
    """Measure on `clips` `[B, N]`, N a whole number of frames, with torch's current number of threads."""
    seconds = clips.size / codec.sample_rate
    timings = time_in_turn(
        {
            "stock": lambda: [stock_codes(codec, clip) for clip in clips],
            "ours": lambda: codec.encode(clips),
            "ours_one": lambda: [codec.encode(clip) for clip in clips],
        },
        rounds,
    )
    stock, ours = np.stack([stock_codes(codec, clip) for clip in clips]), codec.encode(clips)
    per_second = 2 * multiplications(codec.net.encoder, clips.shape[1]) * codec.sample_rate / clips.shape[1]
    return EncodeSpeed(
        **{f"{name}_xrt": timing.speeds(seconds) for name, timing in timings.items()},
        ratio=timings["stock"].median / timings["ours"].median,
        codes_equal=float((stock == ours).mean()),
        floor_xrt=matrix_flops() / per_second,
        threads=torch.get_num_threads(),
        seconds=seconds,
    )


def decode_speed(codec: Codec, clips: np.ndarray, rounds: int) -> DecodeSpeed:
    """Measure on the codes of `clips` `[B, N]`, with torch's current number of threads."""
    codes = codec.encode(clips)
    timings = time_in_turn(
        {
            "stock": lambda: [stock_audio(codec, clip_codes) for clip_codes in codes],
            "ours": lambda: [codec.decode(clip_codes) for clip_codes in codes],
        },
        rounds,
    )
    difference = max(float(np.abs(stock_audio(codec, c) - codec.decode(c)).max()) for c in codes)
    state, frame = codec.decoder_start(codec.codebooks), torch.from_numpy(codes[:1, :, :1])
    frames = time_in_turn({"frame": lambda: codec.decode_chunk(state, frame)}, rounds=50)["frame"]
    seconds = clips.size / codec.sample_rate
    return DecodeSpeed(
        **{f"{name}_xrt": timing.speeds(seconds) for name, timing in timings.items()},
        ratio=timings["stock"].median / timings["ours"].median,
        largest_difference=difference,
        frame_ms=Timing(frames.median * 1e3, frames.least * 1e3, frames.most * 1e3),
        threads=torch.get_num_threads(),
        seconds=seconds,
    )


@torch.no_grad()
def stock_codes(codec: Codec, wav: np.ndarray) -> np.ndarray:
    """Encode `wav` `[N]` to codes `[K, T]` by the package's encoder and quantizer in one pass, with our edge policy."""
    padded = np.pad(wav, (0, -len(wav) % codec.hop))
    return whole_codes(codec, torch.from_numpy(padded)[None])[:, 0].to(torch.int16).numpy()


@torch.no_grad()
def whole_codes(codec: Codec, clips: torch.Tensor) -> torch.Tensor:
    """Encode `clips` `[B, N]`, N a whole number of frames, to codes `[K, B, T]` as `stock_codes` does."""
    padded = torch.nn.functional.pad(clips, (PREROLL_FRAMES * codec.hop, 0))
    return codec.net.quantizer.vq.encode(codec.net.encoder(padded[:, None]), n_q=codec.codebooks)[..., PREROLL_FRAMES:]


@torch.no_grad()
def stock_audio(codec: Codec, codes: np.ndarray) -> np.ndarray:
    """Decode `codes` `[K, T]` to audio `[T · hop]` by the package's decoder, in one pass, with our edge policy."""
    before = codec.preroll_codes[0, : len(codes), None].long()
    both = torch.cat([before, torch.from_numpy(codes)[:, None].long()], dim=-1)
    return codec.net.decoder(codec.net.quantizer.decode(both))[0, 0, PREROLL_FRAMES * codec.hop :].numpy()


def multiplications(network: nn.Module, samples: int) -> int:
    """Count the multiply-adds of the convolutions and LSTMs of `network` for one signal of `samples` samples."""
    count = 0

    def add(layer: nn.Module, _inputs: object, output: torch.Tensor | tuple) -> None:
        nonlocal count
        if isinstance(layer, nn.LSTM):
            weights = sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
            count += weights * output[0].shape[0]
        elif isinstance(layer, nn.Conv1d):
            count += layer.weight.numel() * output.shape[-1]  # type: ignore[union-attr]

    hooks = [layer.register_forward_hook(add) for layer in network.modules()]
    with torch.no_grad():
        network(torch.zeros(1, 1, samples))
    for hook in hooks:
        hook.remove()
    return count
