"""One item of `bench gpu` in a process of its own; it prints a line of JSON per figure, as soon as it has it."""

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from whisper_gpt.jobs.benchmarks.codec_speed import OFFICIAL_SHAPE, benchmarked_codec, whole_codes
from whisper_gpt.jobs.benchmarks.nanogpt import plain_loop
from whisper_gpt.jobs.benchmarks.train_speed import Config as TrainSpeed
from whisper_gpt.jobs.benchmarks.train_speed import our_loop, our_options, rival_loop, token_file
from whisper_gpt.jobs.inference.continuation import Continuations, Prompt
from whisper_gpt.jobs.training.distributed import DeviceChoice, choose_precision
from whisper_gpt.model.config import PRESETS
from whisper_gpt.model.cost import peak_flops, training_flops
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.language_model import build_model
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.frames import FRAME_RATE, HOP_SAMPLES
from whisper_gpt.pipeline.loading.reading_process import ReadingProcess
from whisper_gpt.pipeline.loading.stream import StreamConfig

BATCHES = (1, 8, 64, 256, 512)  # of clips to encode at once
MODELS = {name: PRESETS[name] for name in ("gpt-4m", "hybrid-4m", "hybrid-8m", "gpt-40m")}
MODELS["gpt-100m"] = replace(PRESETS["gpt-40m"], width=768, layers=14, heads=12)
_CLIP_FRAMES = 750  # 10 s


def figure(what: str, value: float, unit: str) -> None:
    """Report a figure."""
    print(json.dumps({"what": what, "value": value, "unit": unit}), flush=True)


def encode(device: torch.device, size: float, dataset: Path) -> None:
    """Encode noise: in multiples of real time, ours in chunks and the package's network on whole clips."""
    codec = _codec(device)
    random = np.random.default_rng(0)
    clip = torch.from_numpy(random.standard_normal((1, _CLIP_FRAMES * HOP_SAMPLES), np.float32) * 0.1)
    on_cpu = _codec(torch.device("cpu")).encode(clip.numpy())
    figure("codes that are the CPU's", float((codec.encode(clip) == on_cpu).mean()), "share")
    for batch in _up_to(size):
        clips = clip.expand(batch, -1).to(device)
        for name, encoded in (("ours", codec.encode), ("package", partial(whole_codes, codec))):
            with _unless_too_large(f"{name}, {batch} at once"):
                seconds = _seconds(partial(encoded, clips), device)
                figure(f"{name}, {batch} at once", batch * _CLIP_FRAMES / FRAME_RATE / seconds, "× real time")


def decode(device: torch.device, size: float, dataset: Path) -> None:
    """Decode random codes, in chunks."""
    codec = _codec(device)
    codes = torch.randint(codec.codebook_size, (codec.codebooks, _CLIP_FRAMES), device=device)
    seconds = _seconds(lambda: codec.decode(codes), device)
    figure("ours, 1 at once", _CLIP_FRAMES / FRAME_RATE / seconds, "× real time")


def train(device: torch.device, size: float, dataset: Path) -> None:
    """Train: tokens per second of our loop and of a plain loop, in the default precision, compiled on a GPU."""
    batch, steps = max(2, round(64 * size)), max(2, round(20 * size))
    config = TrainSpeed(dataset, device=_choice(device), batch=batch, steps=steps)
    precision, compiled = choose_precision("auto", device), device.type == "cuda"
    how = f"{precision}{', compiled' * compiled}"
    tokens = token_file(dataset, config.context)
    shape = replace(PRESETS["gpt-4m"], vocab=int(tokens.max()) + 1, context=config.context)
    step = plain_loop(shape, tokens, batch, precision, device, compiled)
    plain, _ = _best(rival_loop(step, steps, batch * config.context))
    figure(f"plain loop of gpt-4m, {how}", plain, "tokens/s")
    for name, shape in MODELS.items():
        with contextlib.ExitStack() as stack, _unless_too_large(name):
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whisper-gpt-bench-")))
            options = our_options(config, shape.name, precision, compiled, out)
            sized = replace(options, width=shape.width, layers=shape.layers, heads=shape.heads)
            speed, waits = _best(our_loop(sized, steps, stack))
            figure(f"{name}, {how}", speed, "tokens/s")
            figure(f"{name}, waiting for data", waits or 0.0, "share of the time")
            if peak := peak_flops(torch.cuda.get_device_name(device) if device.type == "cuda" else ""):
                parameters = sum(parameter.numel() for parameter in build_model(shape).parameters())
                figure(f"{name}, MFU", training_flops(shape, parameters) * speed / peak, "share")


def generate(device: torch.device, size: float, dataset: Path) -> None:
    """Continue a prompt of 3 s, one and many side by side: seconds of audio per second, of all together."""
    model = HybridLM(PRESETS["hybrid-8m"]).eval().to(device)
    codec, log_mel, frames = _codec(device), LogMel(MelConfig()), max(4, round(150 * size))
    codes = torch.randint(codec.codebook_size, (8, 225))
    prompt = Prompt(codes, log_mel(torch.from_numpy(codec.decode(codes.numpy()))))
    for count in (1, max(2, round(64 * size))):
        generators = [torch.Generator().manual_seed(i) for i in range(count)]
        going = Continuations(model, codec, log_mel, [prompt] * count, Sampling(), "decode", generators)
        going.step()
        begun = time.perf_counter()
        for _ in range(frames):
            going.step()
        figure(
            f"hybrid-8m, {count} at once", count * frames / FRAME_RATE / (time.perf_counter() - begun), "× real time"
        )


def load(device: torch.device, size: float, dataset: Path) -> None:
    """Read training batches: windows per second of one reading process, copied to the device."""
    config = StreamConfig(context=512, batch=64, pack=True, pad=True, narrow=True, pin=device.type == "cuda")
    with contextlib.closing(ReadingProcess(dataset, "train", config)) as batches:
        next(batches)
        windows, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < 10 * size:
            next(batches).to(device)
            windows += config.batch
        _wait(device)
        seconds = time.perf_counter() - begun
    figure("windows of 512 frames, 8 codebooks", windows / seconds, "windows/s")


ITEMS = {"encode": encode, "decode": decode, "train": train, "generate": generate, "load": load}


def _codec(device: torch.device) -> Codec:
    codec = benchmarked_codec(OFFICIAL_SHAPE, codebooks=8)
    return Codec(codec.name, codec.weights_sha256, codec.codebooks, codec.net.to(device))


def _up_to(size: float) -> Iterator[int]:
    """Yield the batches to measure, at most `size` of the largest."""
    yield from (batch for batch in BATCHES if batch <= max(1, BATCHES[-1] * size))


def _seconds(call: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Return the least time of a few calls after a first one."""
    best = float("inf")
    for number in range(rounds + 1):
        begun = time.perf_counter()
        call()
        _wait(device)
        best = min(best, time.perf_counter() - begun) if number else best
    return best


def _best(run_round: Callable[[], tuple[float, float | None]], rounds: int = 3) -> tuple[float, float | None]:
    """Return the fastest round after a first one, which compiles."""
    run_round()
    return max((run_round() for _ in range(rounds)), key=lambda result: result[0])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _choice(device: torch.device) -> DeviceChoice:
    return "cuda" if device.type == "cuda" else "cpu"


@contextlib.contextmanager
def _unless_too_large(what: str) -> Iterator[None]:
    """Report instead of a figure that a GPU's memory was not enough."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        print(json.dumps({"what": what, "value": None, "unit": "out of memory"}), flush=True)
        torch.cuda.empty_cache()


def main(item: str, device: str, size: str, dataset: str) -> None:
    """Measure one of `ITEMS`."""
    ITEMS[item](torch.device(device), float(size), Path(dataset))


if __name__ == "__main__":
    main(*sys.argv[1:])
