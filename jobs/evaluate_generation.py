"""Let trained models continue recordings of a dataset, and score what they generate.

Beside the runs are what really followed, as original audio and as the codec decodes it (the ceiling), and each run's
continuations judged against the prompts of other recordings (the level of chance for likeness to the prompt).
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.codec.judging import Figure, Scores, Share, figure_text
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.progress import progress_line, status_console
from whisper_gpt.jobs.common.wav import wav_bytes
from whisper_gpt.jobs.inference.continuation import require_can_continue, sampling_options
from whisper_gpt.jobs.inference.generation_scores import (
    Continued,
    Kind,
    continuation_scores,
    likeness,
    mel_distance,
)
from whisper_gpt.jobs.inference.held_out import Lengths, continued, decoded, held_out, originals
from whisper_gpt.jobs.inference.mel_shift import mel_warning
from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.inference.run_folder import load_frame_model, require_same_data, trained_on
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.manifests.splits import require_samples
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.judge.codes import unigram_divergence
from whisper_gpt.pipeline.judge.packages import INSTALL, missing_packages

_SIDE_BY_SIDE = 16  # continuations at once
_ORIGINALS = "originals"

_METRICS = {
    "dnsmos_overall": ("DNSMOS P.835 overall, 1–5", 2),
    "dnsmos_signal": ("  signal", 2),
    "dnsmos_background": ("  background", 2),
    "dnsmos_p808": ("DNSMOS P.808, 1–5", 2),
    "voice_similarity": ("voice similarity to the prompt", 3),
    "code_entropy": ("entropy of codebook 0 in a clip, nats", 2),
    "commonest_code": ("share of its commonest code", 3),
    "repeated_codes": ("share of its repeated 4-grams", 3),
    "sounding": ("share of the time above −40 dB", 2),
    "longest_silence_s": ("longest silence, s", 2),
    "onsets_per_s": ("onsets per second", 2),
    "pitch_class_divergence": ("divergence of pitch classes from the prompt's, nats", 3),
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
    judge: Kind = "speech"
    """Kind of audio. speech adds DNSMOS and the similarity of voices (extra `judge`), music onsets and the
    pitch classes."""
    source: UPath | None = None
    """Folder, or s3:// or gs:// prefix, of the corpus that the dataset was made from, to score the originals too."""
    codec_weights: Path | None = None
    """File with the weights of the dataset's codec, if it is not found without this option."""
    save: Path | None = None
    """Folder to save the clips in, each prompt with its continuation: a folder for the originals, the codec, and each
    run, as `whisper-gpt listen` takes them."""
    json: bool = False
    """Print JSON instead of the table."""


@dataclass(frozen=True)
class _Row:
    """The figures of one set of continuations, and how far the distributions of all their codes (in nats) and of all
    their mel frames are from the real ones."""

    figures: dict[str, Figure]
    unigram_divergence: float
    mel_distance: float


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
        if warning := mel_warning(model, info, state.data.mel_variant, folder, config.dataset):
            console.print(warning)
    missing = missing_packages() if config.judge == "speech" else []
    if missing:
        console.print(f"skipped metrics of packages that are missing: {', '.join(missing)}; to install them: {INSTALL}")
    codec = codec_of(config.dataset, trained_on(info), config.codec_weights)
    lengths = Lengths.of_seconds(config.prompt_s, config.seconds)
    rows: dict[str, _Row] = {}
    prompts: list[np.ndarray] = []
    for folder, model, state in loaded:
        n_codebooks, variant = model.config.output_codebooks, state.data.mel_variant
        recordings = list(held_out(dataset, config.split, config.prompts, lengths, variant))
        if not recordings:
            raise JobError(f"{config.dataset}: no {config.split} sample of {config.prompt_s + config.seconds} s")
        real = [decoded(codec, recording, n_codebooks, lengths) for recording in recordings]
        # The same for all rows, however many codebooks a run predicts.
        prompts = prompts or [decoded(codec, r, codec.codebooks, lengths).prompt_wav for r in recordings]
        if config.source is not None and _ORIGINALS not in rows:
            natural = list(originals(dataset, config.split, recordings, location(config.source), lengths))
            rows[_ORIGINALS] = _row(
                natural, natural, prompts, [continuation_scores(clip, config.judge) for clip in natural], codec
            )
            _save(config.save, _ORIGINALS, natural)
        log_mel, drawn, started = LogMel(MelConfig(**state.data.mel)), [], time.monotonic()
        with progress_line(console, len(recordings)) as show:
            for first in range(0, len(recordings), _SIDE_BY_SIDE):
                some = recordings[first : first + _SIDE_BY_SIDE]
                seeds = range(config.seed + first, config.seed + first + len(some))
                drawn += continued(model, codec, log_mel, some, sampling, lengths, seeds)
                left_s = (time.monotonic() - started) / len(drawn) * (len(recordings) - len(drawn))
                show(len(drawn), f"{folder}, {len(drawn)} of {len(recordings)} recordings", left_s)
        ceiling = f"codec, {n_codebooks} codebooks"
        if ceiling not in rows:  # the same for all runs of as many codebooks
            _save(config.save, f"codec-{n_codebooks}", real)
            rows[ceiling] = _row(real, real, prompts, [continuation_scores(clip, config.judge) for clip in real], codec)
        _save(config.save, folder.absolute().name, drawn)
        scores = [continuation_scores(clip, config.judge) for clip in drawn]
        rows[str(folder)] = _row(drawn, real, prompts, scores, codec)
        if len(drawn) > 1 and config.judge != "none":
            others = zip(drawn, [*drawn[1:], drawn[0]], strict=True)
            likenesses = [likeness(*pair, config.judge) for pair in others]
            rows[f"{folder}, another prompt"] = replace(rows[str(folder)], figures=_figures(likenesses))
    if config.json:
        print(json.dumps({name: asdict(row) for name, row in rows.items()}, indent=1))
    else:
        Console(highlight=False).print(_table(rows))
    return 0


def _save(folder: Path | None, name: str, clips: list[Continued]) -> None:
    """Write clips, prompt and continuation, as folder/name/NUMBER.wav, if there is a folder."""
    if folder is None:
        return
    for number, clip in enumerate(clips):
        wav = np.concatenate([clip.prompt_wav, clip.wav])
        publish_bytes(folder / name / f"{number:03}.wav", wav_bytes(wav))


def _figures(clip_scores: list[dict[str, Share]]) -> dict[str, Figure]:
    scores = Scores()
    for number, shares in enumerate(clip_scores):
        scores.add(number, shares)
    return scores.figures()


def _row(
    clips: list[Continued],
    real: list[Continued],
    prompts: list[np.ndarray],
    clip_scores: list[dict[str, Share]],
    codec: Codec,
) -> _Row:
    drawn, expected = ([clip.codes for clip in side] for side in (clips, real))
    divergence = unigram_divergence(drawn, expected, codec.codebook_size)
    return _Row(_figures(clip_scores), divergence, mel_distance(clips, prompts))


def _table(rows: dict[str, _Row]) -> Table:
    table = Table("metric", *rows)
    for metric, (label, digits) in _METRICS.items():
        cells = [row.figures.get(metric) for row in rows.values()]
        if any(cells):
            table.add_row(label, *(figure_text(cell, digits) for cell in cells))
    table.add_row("divergence of the codes, nats", *(f"{row.unigram_divergence:.3f}" for row in rows.values()))
    table.add_row("Fréchet distance of mel frames", *(f"{row.mel_distance:.2f}" for row in rows.values()))
    return table
