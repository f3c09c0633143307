"""How fast a codec encodes and decodes, against the `encodec` package's whole-signal pass over the same clips."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from whisper_gpt.jobs.benchmarks.timing import Timing, time_in_turn
from whisper_gpt.jobs.training.peak_flops import matrix_flops
from whisper_gpt.pipeline.codec.causal import PREROLL_FRAMES, Codec

# Stands for the 24 kHz model's network with seeded weights: its speed without its weights.
OFFICIAL_SHAPE = "official-shape"


@dataclass(frozen=True)
class EncodeSpeed:
    """Times real time (seconds of audio a second). `ours_xrt` encodes all clips side by side, `ours_one_xrt` one after
    another; `floor_xrt` is what the network's products alone would take at the speed of a square matrix product."""

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
    """Times real time; the largest difference of a sample; how long one frame takes in a stream, in milliseconds."""

    stock_xrt: Timing
    ours_xrt: Timing
    ratio: float
    largest_difference: float
    frame_ms: Timing
    threads: int
    seconds: float


def encode_speed(codec: Codec, clips: np.ndarray, rounds: int) -> EncodeSpeed:
    """Measure on `clips` `[B, N]`, N a whole number of frames, with the threads torch is set to."""
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
    """Measure on the codes of `clips` `[B, N]`, with the threads torch is set to."""
    codes = codec.encode(clips)
    timings = time_in_turn(
        {
            "stock": lambda: [stock_audio(codec, own) for own in codes],
            "ours": lambda: [codec.decode(own) for own in codes],
        },
        rounds,
    )
    difference = max(float(np.abs(stock_audio(codec, own) - codec.decode(own)).max()) for own in codes)
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
    """Codes `[K, T]` of `wav` `[N]` by the package's own encoder and quantizer, in one pass, under our edge policy."""
    padded = np.pad(wav, (PREROLL_FRAMES * codec.hop, -len(wav) % codec.hop))
    latents = codec.net.encoder(torch.from_numpy(padded)[None, None])
    codes = codec.net.quantizer.vq.encode(latents, n_q=codec.codebooks)
    return codes[:, 0, PREROLL_FRAMES:].to(torch.int16).numpy()


@torch.no_grad()
def stock_audio(codec: Codec, codes: np.ndarray) -> np.ndarray:
    """Audio `[T · hop]` of `codes` `[K, T]` by the package's own decoder, in one pass, under our edge policy."""
    before = codec.preroll_codes[0, : len(codes), None].long()
    both = torch.cat([before, torch.from_numpy(codes)[:, None].long()], dim=-1)
    return codec.net.decoder(codec.net.quantizer.decode(both))[0, 0, PREROLL_FRAMES * codec.hop :].numpy()


def multiplications(network: nn.Module, samples: int) -> int:
    """Multiply-adds of the convolutions and LSTMs of `network` for one signal of `samples` samples."""
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
