"""Time generation frame by frame, beside a plain loop that keeps no state, and where a frame's milliseconds go."""

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import psutil
import torch
from rich.console import Console
from rich.table import Table

from whisper_gpt.jobs.benchmarks.codec_speed import benchmarked_codec
from whisper_gpt.jobs.benchmarks.timing import Timing, timing_of
from whisper_gpt.jobs.common.errors import UsageError, require
from whisper_gpt.jobs.inference.continuation import Continuations, Prompt, decode_next, predict_after, prefill
from whisper_gpt.jobs.inference.scoring import predict
from whisper_gpt.model.config import PRESETS
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.quantization import quantize_int8
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.frames import FRAME_RATE

_PROMPT_FRAMES = 225  # 3 s
_PLAIN_FRAMES = 5  # the plain loop takes long for each


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench generate`."""

    model: str = "hybrid-8m"
    """Preset to generate with; its weights are random, which costs the same time."""
    codec: str = "encodec_24khz_small"
    """Codec to decode with: official-shape (the 24 kHz model's architecture with random weights, at the same speed), or
    a codec as for preprocess."""
    seconds: float = 3.0
    """Seconds of audio to generate per round, after a prompt of 3 s."""
    rounds: int = 5
    """Number of rounds; the median is reported."""
    minutes: float = 0.0
    """Also generate this many minutes of audio in one go, and report time per frame and memory minute by minute."""
    threads: int = 1
    """Number of torch threads."""
    compile: bool = False
    """Run the model's steps as generated code, as `generate --compile` does."""
    int8: bool = False
    """Round the model's matrices to 8 bits, as `generate --int8` does."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class GenerateSpeed:
    """`speed` and `plain_speed` in × real time, the latter of a loop that recomputes everything per frame; `first_ms`
    from the prompt's codes to the first new frame; milliseconds per frame of the parts."""

    speed: Timing
    plain_speed: Timing
    first_ms: Timing
    parts_ms: dict[str, Timing]


@dataclass(frozen=True)
class Stretch:
    """A minute of one long continuation, or the rest of it: milliseconds per frame, and the process's memory at its
    end."""

    frames: int
    ms_per_frame: float
    memory_mb: float


def run(config: Config) -> int:
    """Measure and print; return exit code 0."""
    generating = [name for name, preset in PRESETS.items() if preset.pattern == "depth"]
    if config.model not in generating:
        raise UsageError(f"--model {config.model}: use one of {', '.join(generating)}")
    require(config.rounds >= 1 and config.seconds > 0, "--rounds must be at least 1, --seconds above zero")
    require(0 <= config.minutes < math.inf, f"--minutes {config.minutes}: must be a number, not negative")
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    model = HybridLM(PRESETS[config.model]).eval()
    plain_model = copy.deepcopy(model)
    if config.int8:
        quantize_int8(model)
    n_codebooks = model.config.output_codebooks
    codec = benchmarked_codec(config.codec, codebooks=max(8, n_codebooks))
    log_mel = LogMel(MelConfig())
    codes = torch.randint(codec.codebook_size, (n_codebooks, _PROMPT_FRAMES))
    prompt = Prompt(codes, log_mel(torch.from_numpy(codec.decode(codes.numpy()))))
    frames = round(config.seconds * FRAME_RATE)
    result = generate_speed(model, plain_model, codec, log_mel, prompt, frames, config.rounds, config.compile)
    long_run_frames = round(60 * config.minutes * FRAME_RATE)
    stretches = one_long_run(model, codec, log_mel, prompt, long_run_frames, config.compile)
    if config.json:
        described = {"model": config.model, "codec": config.codec, "compiled": config.compile, "int8": config.int8}
        long_run = [asdict(stretch) for stretch in stretches]
        print(json.dumps({**described, **asdict(result), "one_long_run": long_run}))
    else:
        _print(config, result, stretches)
    return 0


@torch.no_grad()
def generate_speed(
    model: HybridLM,
    plain_model: HybridLM,
    codec: Codec,
    log_mel: LogMel,
    prompt: Prompt,
    frames: int,
    rounds: int,
    compiled: bool,
) -> GenerateSpeed:
    """Measure `rounds` continuations of `prompt` by `frames` frames, in alternation with the plain loop of
    `plain_model`: the same model with fp32 weights."""
    speeds, plain_speeds, firsts = [], [], []
    parts: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        begun = time.perf_counter()
        generators = [torch.Generator().manual_seed(0)]
        generated = Continuations(model, codec, log_mel, [prompt], Sampling(), "decode", generators, compiled)
        generated.step()
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(frames):
            generated.step()
        took = time.perf_counter() - begun
        plain = _timed(lambda: _plain_frames(plain_model, codec, log_mel, prompt))
        if number:  # the first round warms up
            firsts.append(1000 * first)
            speeds.append(frames / FRAME_RATE / took)
            plain_speeds.append(_PLAIN_FRAMES / FRAME_RATE / plain)
            for name, seconds in _parts(model, codec, log_mel, prompt, compiled).items():
                parts.setdefault(name, []).append(1000 * seconds)
    parts_ms = {name: timing_of(values) for name, values in parts.items()}
    return GenerateSpeed(timing_of(speeds), timing_of(plain_speeds), timing_of(firsts), parts_ms)


def one_long_run(
    model: HybridLM, codec: Codec, log_mel: LogMel, prompt: Prompt, frames: int, compiled: bool
) -> list[Stretch]:
    """Measure a continuation by `frames` frames, minute by minute; none for 0 frames."""
    if not frames:
        return []
    stretches, minute, process = [], round(60 * FRAME_RATE), psutil.Process()
    generators = [torch.Generator().manual_seed(0)]
    generated = Continuations(model, codec, log_mel, [prompt], Sampling(), "decode", generators, compiled)
    for begin in range(0, frames, minute):
        count = min(minute, frames - begin)
        took = _timed(generated.step, count)
        stretches.append(Stretch(count, 1000 * took / count, process.memory_info().rss / 1e6))
    return stretches


def _plain_frames(model: HybridLM, codec: Codec, log_mel: LogMel, prompt: Prompt) -> None:
    """Generate frames by a pass over the whole history each, and decode and analyse the whole history each time."""
    codes, mel = prompt.codes, prompt.mel
    for _ in range(_PLAIN_FRAMES):
        # The last frame is only there for the output before it, which predicts it.
        prediction = predict(model, torch.cat([codes, codes[:, :1]], dim=1)[None], torch.cat([mel, mel[:1]])[None])
        codes = torch.cat([codes, model.draw(prediction, Sampling()).T], dim=1)
        mel = log_mel(torch.from_numpy(codec.decode(codes.numpy())))


def _parts(
    model: HybridLM, codec: Codec, log_mel: LogMel, prompt: Prompt, compiled: bool, frames: int = 40
) -> dict[str, float]:
    """Return the seconds per frame of each part of a step, measured alone."""
    normalised = model.mel_encoder.normalise(prompt.mel) if model.config.hybrid else prompt.mel
    cache, prediction = prefill(model, prompt.codes[None], normalised[None], "decode")
    tokens, mel = model.embedding_rows(prompt.codes[None, :, :1]), prompt.mel[None, :1]
    decoder, context = codec.decoder_start(codebooks=len(prompt.codes)), log_mel.start()
    audio = torch.zeros(codec.hop)
    calls: dict[str, Callable[[], object]] = {
        "draws, with the depth decoder": lambda: model.draw(prediction, Sampling(), compiled=compiled),
        "decoder and mel encoder": lambda: predict_after(model, tokens, mel, "decode", cache, compiled),
        "codec's decoder": lambda: decode_next(codec, decoder, prompt.codes[None, :, :1], compiled),
        "mel": lambda: log_mel.step(context, audio),
    }
    for call in calls.values():
        call()  # which compiles
    return {name: _timed(call, frames) / frames for name, call in calls.items()}


def _timed(call: Callable[[], object], times: int = 1) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - begun


def _print(config: Config, result: GenerateSpeed, stretches: Sequence[Stretch]) -> None:
    console = Console(highlight=False)
    how = ("compiled" if config.compile else "not compiled") + ", 8-bit weights" * config.int8
    console.print(f"{config.model}, {how}, codec {config.codec}, {config.threads} thread(s), after a prompt of 3 s")
    table = Table("", "median", "least", "most")
    rows = {
        "× real time": result.speed,
        "  plain loop": result.plain_speed,
        "first frame, ms": result.first_ms,
        **{f"{name}, ms per frame": timing for name, timing in result.parts_ms.items()},
    }
    for name, timing in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in (timing.median, timing.least, timing.most)))
    console.print(table)
    for number, stretch in enumerate(stretches, 1):
        console.print(
            f"minute {number} of one run: {stretch.ms_per_frame:.2f} ms per frame, {stretch.memory_mb:.0f} MB of memory"
        )
