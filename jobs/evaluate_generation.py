"""Let trained models continue recordings of a dataset, and score what they generate.

Beside each run are the codec's own decoding of what really followed (the ceiling), and the run's continuations judged
against the prompts of other recordings (the level of chance for the similarity of voices).
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.codec.judging import Figure, Scores, Share, figure_text
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.progress import progress_line, status_console
from whisper_gpt.jobs.inference.continuation import Continuations, Prompt, require_can_continue, sampling_options
from whisper_gpt.jobs.inference.generation_scores import (
    Continued,
    continuation_scores,
    voice_similarity,
)
from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.inference.run_folder import TrainingState, load_frame_model, require_same_data, trained_on
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.manifests.splits import require_samples
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.frames import FRAME_RATE
from whisper_gpt.pipeline.judge.codes import unigram_divergence
from whisper_gpt.pipeline.judge.packages import INSTALL, missing_packages
from whisper_gpt.pipeline.loading.stream import whole_split

_SIDE_BY_SIDE = 16  # continuations at once

_METRICS = {
    "dnsmos_overall": ("DNSMOS P.835 overall, 1–5", 2),
    "dnsmos_signal": ("  signal", 2),
    "dnsmos_background": ("  background", 2),
    "dnsmos_p808": ("DNSMOS P.808, 1–5", 2),
    "voice_similarity": ("voice similarity to the prompt", 3),
    "code_entropy": ("entropy of codebook 0 in a clip, nats", 2),
    "commonest_code": ("share of its commonest code", 3),
    "longest_silence_s": ("longest silence, s", 2),
}


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt evaluate-generation`."""

    dataset: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess`, with the mel that the runs read."""
    runs: Positional[tuple[Path, ...]]
    """Folders of training runs, or of single checkpoints."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Checkpoint of each run: the newest, or the one with the best validation score."""
    split: Literal["train", "validation", "test"] = "test"
    """Split of the recordings to continue."""
    prompts: int = 50
    """Number of recordings to continue, each once; those that are too short are passed over."""
    prompt_s: float = 3.0
    """Length of a prompt in seconds."""
    seconds: float = 5.0
    """Length of a continuation in seconds."""
    temperature: float = 1.0
    """Sampling temperature; 0 always takes the most likely token."""
    finer_temperature: float | None = None
    """Sampling temperature of all codebooks but the coarsest; by default the same."""
    top_k: int = 0
    """Sample from the k most likely tokens only; 0: from all."""
    top_p: float = 1.0
    """Sample from the smallest set of most likely tokens with at least this total probability."""
    seed: int = 0
    """Random seed for sampling."""
    judge: bool = True
    """Also DNSMOS and the similarity of voices, which are for speech and need the extra `judge`."""
    codec_weights: Path | None = None
    """File with the weights of the dataset's codec, if it is not found without this option."""
    json: bool = False
    """Print JSON instead of the table."""


@dataclass(frozen=True)
class _Row:
    """The figures of one set of continuations, and the divergence of their codes from the real ones (in nats)."""

    figures: dict[str, Figure]
    unigram_divergence: float


def run(config: Config) -> int:
    """Generate, score and print; return exit code 0."""
    require(bool(config.runs), "name at least one run")
    require(config.prompts >= 1, f"--prompts {config.prompts}: must be at least 1")
    require(config.prompt_s > 0 and config.seconds > 0, "--prompt-s and --seconds must be above zero")
    sampling = sampling_options(config.temperature, config.top_k, config.top_p, config.finer_temperature)
    dataset, console = location(config.dataset), status_console()
    info = read_info(dataset)
    require_samples(dataset, info, config.split)
    loaded = [(folder, *load_frame_model(folder, config.checkpoint == "best")) for folder in config.runs]
    for folder, model, state in loaded:
        require_same_data(state.data, trained_on(info, state.data.mel_variant), folder, config.dataset)
        require_can_continue(folder, model, state.data.mel_variant)
    missing = missing_packages() if config.judge else []
    if missing:
        console.print(f"skipped metrics of packages that are missing: {', '.join(missing)}; to install them: {INSTALL}")
    codec = codec_of(config.dataset, trained_on(info), config.codec_weights)
    rows: dict[str, _Row] = {}
    for folder, model, state in loaded:
        recordings = list(_recordings(config, dataset, state))
        if not recordings:
            raise JobError(f"{config.dataset}: no {config.split} sample of {config.prompt_s + config.seconds} s")
        real = [_real(codec, recording, model.config.output_codebooks, config) for recording in recordings]
        log_mel, drawn, started = LogMel(MelConfig(**state.data.mel)), [], time.monotonic()
        with progress_line(console, len(recordings)) as show:
            for first in range(0, len(recordings), _SIDE_BY_SIDE):
                some = recordings[first : first + _SIDE_BY_SIDE]
                drawn += _continue(model, codec, log_mel, some, sampling, config, first)
                left_s = (time.monotonic() - started) / len(drawn) * (len(recordings) - len(drawn))
                show(len(drawn), f"{folder}, {len(drawn)} of {len(recordings)} recordings", left_s)
        ceiling = f"codec, {model.config.output_codebooks} codebooks"
        if ceiling not in rows:  # the same for all runs of as many codebooks
            rows[ceiling] = _row(real, real, [continuation_scores(clip, config.judge) for clip in real], codec)
        scores = [continuation_scores(clip, config.judge) for clip in drawn]
        rows[str(folder)] = _row(drawn, real, scores, codec)
        if len(drawn) > 1:
            if config.judge:
                others = zip(drawn, [*drawn[1:], drawn[0]], strict=True)
                scores = [own | voice_similarity(*pair) for own, pair in zip(scores, others, strict=True)]
            rows[f"{folder}, another prompt"] = _row(drawn, real, scores, codec)
    if config.json:
        print(json.dumps({name: asdict(row) for name, row in rows.items()}, indent=1))
    else:
        Console(highlight=False).print(_table(rows))
    return 0


@dataclass(frozen=True)
class _Recording:
    """The codes int64 `[K, n]` and log-mel `[n, M]` of a recording's first frames: the prompt and what follows."""

    codes: torch.Tensor
    mel: torch.Tensor


def _frames(config: Config) -> tuple[int, int]:
    return round(config.prompt_s * FRAME_RATE), round(config.seconds * FRAME_RATE)


def _recordings(config: Config, dataset: Location, state: TrainingState) -> Iterator[_Recording]:
    """Yield the first windows of the split that are long enough, each of another sample."""
    frames = sum(_frames(config))
    seen: set[str] = set()
    for batch in whole_split(dataset, config.split, frames, 1, state.data.mel_variant):
        ((key,),) = batch.keys
        if len(seen) == config.prompts:
            return
        if key not in seen and bool(batch.mask[0].all()) and batch.mask.shape[1] == frames:
            seen.add(key)
            yield _Recording(batch.codes[0], batch.mel[0])


def _real(codec: Codec, recording: _Recording, n_codebooks: int, config: Config) -> Continued:
    prompt_frames, _ = _frames(config)
    codes = recording.codes[:n_codebooks].numpy()
    wav = codec.decode(codes)
    cut = prompt_frames * codec.hop
    return Continued(codes[0, prompt_frames:], wav[cut:], wav[:cut])


def _continue(
    model: HybridLM,
    codec: Codec,
    log_mel: LogMel,
    recordings: list[_Recording],
    sampling: Sampling,
    config: Config,
    first: int,
) -> list[Continued]:
    """Continue recordings side by side, each with the seed of its number, counted from `first`."""
    prompt_frames, frames = _frames(config)
    n_codebooks = model.config.output_codebooks
    prompts = [Prompt(r.codes[:n_codebooks, :prompt_frames], r.mel[:prompt_frames]) for r in recordings]
    generators = [torch.Generator().manual_seed(config.seed + first + i) for i in range(len(recordings))]
    generated = Continuations(model, codec, log_mel, prompts, sampling, "decode", generators)
    codes, wavs = [], []
    for _ in range(frames):
        wavs.append(generated.step())
        codes.append(generated.codes[:, 0, -1])
    clips = zip(torch.stack(codes, dim=1).numpy(), torch.cat(wavs, dim=1).numpy(), strict=True)
    return [Continued(*clip, prompt) for clip, prompt in zip(clips, generated.prompt_audio.numpy(), strict=True)]


def _row(clips: list[Continued], real: list[Continued], clip_scores: list[dict[str, Share]], codec: Codec) -> _Row:
    scores = Scores()
    for number, shares in enumerate(clip_scores):
        scores.add(number, shares)
    drawn, expected = ([clip.codes for clip in side] for side in (clips, real))
    return _Row(scores.figures(), unigram_divergence(drawn, expected, codec.codebook_size))


def _table(rows: dict[str, _Row]) -> Table:
    table = Table("metric", *rows)
    for metric, (label, digits) in _METRICS.items():
        cells = [row.figures.get(metric) for row in rows.values()]
        if any(cells):
            table.add_row(label, *(figure_text(cell, digits) for cell in cells))
    table.add_row("divergence of the codes, nats", *(f"{row.unigram_divergence:.3f}" for row in rows.values()))
    return table
