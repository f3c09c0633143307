"""The leak audit: find the last input sample that a frame of each stage depends on.

For the codec, the mel and the model in turn, the future of a clip is replaced (by other noise, by silence, by very
loud sound), and the outputs are compared bit by bit. Codes and mel of frame t may depend on samples up to 320·t + 319,
the frame's last; a prediction of frame t on samples up to 320·t − 1, the last of the frame before. For a dataset, the
audit covers the codec and every mel variant, computed by the same code as in preprocess; for a run, its codec, the mel
variant that it reads, and the model's logits.

The stages begin at 24 kHz. A recording of another rate is resampled first, by a linear-phase filter that looks slightly
ahead, for all stages alike. How far and how loudly is reported separately, with the number of earlier frames of each
stage that a change in the recording affects; neither changes the exit code.

The exit code is 0 if no stage sees too far, and 1 if one does or if a stage ignores its input. A dataset's labelled
control (preprocess --leaky-control) is meant to leak: it is reported as 'leak (the control)' and does not count, unless
it looks further ahead than its name says. A run that was trained on it does count.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.inference.run_folder import STATE_FILE, TrainedOn, checkpoints, load_frame_model, trained_on
from whisper_gpt.jobs.inference.scoring import predict
from whisper_gpt.manifests.dataset_info import FILE_NAME, read_info
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import is_file, is_remote, location
from whisper_gpt.model.hybrid import HybridLM, Prediction
from whisper_gpt.pipeline.audio import probe_file, read_mono
from whisper_gpt.pipeline.audit import (
    REPLACEMENTS,
    Finding,
    FramesAhead,
    ResamplerLookahead,
    Stage,
    audit_stage,
    frames_ahead,
    frames_to_audit,
    resampler_lookahead,
    synthetic_clip,
)
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig, lookahead_samples
from whisper_gpt.pipeline.frames import HOP_SAMPLES, SAMPLE_RATE, frame_count
from whisper_gpt.pipeline.resampling import resampled
from whisper_gpt.pipeline.treatment import USUAL, Resampler, Treatment

_SYNTHETIC_FRAMES = 160  # a little more than two chunks of the codec's stream
_CORPORA_RATES = {16_000, 44_100, 48_000}  # LibriSpeech's and MAESTRO's
_FRAMES = range(20, 751)  # of --audio: fewer have too little future, more only take longer


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt audit`."""

    target: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess`; or the folder of a training run or
    checkpoint."""
    audio: Path | None = None
    """Audio file whose first 10 s are used for the audit; synthetic tones and noise if not given."""
    codec_weights: Path | None = None
    """File with the weights of the dataset's or run's codec, if it is not found without this option."""
    json: bool = False
    """Print JSON instead of the table."""


@dataclass(frozen=True)
class StageAudit:
    """The findings of one stage, their `changes` in `unit`; `permitted`: the samples that frame t may depend on."""

    stage: str
    permitted: str
    unit: str
    verdict: str
    passed: bool
    findings: list[Finding]


@dataclass(frozen=True)
class _Stage:
    """A stage to audit on `samples` samples; `control_reach`: how many samples past its frame it is meant to see."""

    name: str
    run: Stage
    samples: int
    unit: str
    frames_back: int = 0  # 1: frame t may depend only on the frames before it
    control_reach: int = 0

    def permitted(self, frame: int) -> int:
        """Return the last sample that a frame may depend on."""
        return HOP_SAMPLES * (frame + 1 - self.frames_back) - 1


@dataclass(frozen=True)
class _SourceAudit:
    """How far ahead the resampler looks in recordings at one rate, and each stage (by name) through it."""

    resampler: ResamplerLookahead
    stages: dict[str, FramesAhead]
    units: dict[str, str]


def run(config: Config) -> int:
    """Print the table (or JSON); return exit code 0, or 1 if a stage fails."""
    torch.set_num_threads(1)  # as in preprocess's workers: short pieces gain nothing from more
    wav, stages = _stages(config)
    tracked = track(stages, "auditing", console=status_console(), transient=True)
    audits = [_audit(stage, wav[: stage.samples]) for stage in tracked]
    sources = [_audit_source(rate, _resampler(config), stages) for rate in _source_rates(config)]
    if config.json:
        resampler = [_source_json(source) for source in sources]
        print(json.dumps({"stages": [asdict(audit) for audit in audits], "resampler": resampler}, indent=1))
    else:
        Console().print(table(audits))
        for source in sources:
            Console(highlight=False, markup=False).print(_source_text(source), soft_wrap=True)
    failed = [f"{audit.stage} ({audit.verdict})" for audit in audits if not audit.passed]
    verdict = f"failed: {', '.join(failed)}" if failed else "no stage sees the future"
    controls = [audit.stage for audit in audits if audit.passed and any(f.samples_ahead for f in audit.findings)]
    exception = f", except {', '.join(controls)}, as intended" if controls else ""
    status_console().print(f"{config.target}: {verdict}{exception}")
    return 1 if failed else 0


def _stages(config: Config) -> tuple[np.ndarray, list[_Stage]]:
    """Return a clip, and the stages of a dataset or run. Raises `JobError` for another target or unusable audio."""
    target = location(config.target)
    wav = _read(config.audio) if config.audio else synthetic_clip(_SYNTHETIC_FRAMES)
    if is_file(target / FILE_NAME):
        data = trained_on(read_info(target))
        return wav, _dataset_stages(data, codec_of(target, data, config.codec_weights), wav)
    if not is_remote(target) and (checkpoints(target) or is_file(target / STATE_FILE)):
        model, state = load_frame_model(target)
        return wav, _run_stages(model, state.data, codec_of(target, state.data, config.codec_weights), wav)
    raise JobError(f"{config.target}: neither a dataset ({FILE_NAME}) nor a training run (checkpoints/)")


def _source_rates(config: Config) -> list[int]:
    """Return the sample rates to resample from: of --audio, else of the dataset's recordings, else of the corpora."""
    if config.audio:
        with config.audio.open("rb") as file:
            rates = {probe_file(file).sample_rate}
    elif is_file(location(config.target) / FILE_NAME):
        rates = set(read_samples(location(config.target), columns=["source_rate"])["source_rate"].unique().to_pylist())
    else:
        rates = _CORPORA_RATES
    return sorted(rates - {SAMPLE_RATE})


def _resampler(config: Config) -> Resampler:
    """Return the resampler of all of a dataset's sources; the usual one if there is another, or no dataset."""
    dataset = location(config.target)
    treatments = read_info(dataset).treatments if is_file(dataset / FILE_NAME) else [{}]
    resamplers = {Treatment(**changes).resampler for changes in treatments}
    return resamplers.pop() if len(resamplers) == 1 else USUAL.resampler


def _audit_source(rate: int, resampler: Resampler, stages: list[_Stage]) -> _SourceAudit:
    def resample(wav: np.ndarray) -> np.ndarray:
        return np.concatenate(list(resampled([wav], rate, resampler=resampler)))

    ahead = {
        stage.name: frames_ahead(stage.run, resample, rate, stage.samples // HOP_SAMPLES, stage.frames_back)
        for stage in stages
    }
    return _SourceAudit(resampler_lookahead(resample, rate), ahead, {stage.name: stage.unit for stage in stages})


def _source_text(source: _SourceAudit) -> str:
    resampler = source.resampler
    levels = [
        f"{samples} samples at {level:g} dB" for level, samples in resampler.samples.items() if np.isfinite(level)
    ]
    stages = [
        f"{name} {ahead.frames} ({ahead.change:.2g} {source.units[name]})" for name, ahead in source.stages.items()
    ]
    return (
        f"resampler: from {resampler.source_rate:,} Hz it looks ahead {', '.join(levels)}, and "
        f"{resampler.samples[-np.inf]} bit by bit (in 24 kHz samples; the same for codec and mel; does not count)\n"
        f"  number of frames that change with later samples, and the last one's change: {', '.join(stages)}"
    )


def _source_json(source: _SourceAudit) -> dict[str, Any]:
    resampler = source.resampler
    samples = {"any" if np.isinf(level) else f"{level:g}": count for level, count in resampler.samples.items()}
    stages = {name: asdict(ahead) for name, ahead in source.stages.items()}
    return {"source_rate": resampler.source_rate, "samples_by_db": samples, "stages": stages}


def table(audits: list[StageAudit]) -> Table:
    """Return the findings as a table for the terminal, one line per frame."""
    title = "the last input sample that frame t depends on"
    table = Table(box=box.SIMPLE_HEAD, title=title, show_lines=True, padding=(0, 1, 0, 0))  # fits into 80 characters
    table.add_column("stage", no_wrap=True)
    for heading in ("t", "may see", "sees", "ahead", *REPLACEMENTS):
        table.add_column(heading, justify="right", no_wrap=True)
    table.caption = (
        "change in frame t if all samples that it may not see\nare replaced by louder sound, noise or silence"
    )
    for audit in audits:
        lines = [_line(finding) for finding in audit.findings]
        colour = "green" if audit.passed else "red"
        about = [escape(audit.stage), f"[{colour}]{audit.verdict}[/]", audit.permitted, audit.unit]
        table.add_row("\n".join(about), *("\n".join(cells) for cells in zip(*lines, strict=True)))
    return table


def _line(finding: Finding) -> list[str]:
    last, ahead = finding.last_sample, finding.samples_ahead
    return [
        str(finding.frame),
        f"{finding.permitted_sample:,}" if finding.permitted_sample >= 0 else "none",
        "none" if last is None else f"{last:,}",
        f"{ahead:,}" if ahead else "–",
        *(f"{change:.2g}" if change else "–" for change in finding.changes.values()),
    ]


def _read(path: Path) -> np.ndarray:
    try:
        wav = read_mono(path)[: _FRAMES[-1] * HOP_SAMPLES]
    except AudioError as error:
        raise JobError(f"--audio {path}: {error}") from error
    if frame_count(len(wav)) < _FRAMES[0]:
        raise JobError(f"--audio {path}: shorter than {_FRAMES[0]} frames of {HOP_SAMPLES} samples")
    return wav


def _dataset_stages(data: TrainedOn, codec: Codec, wav: np.ndarray) -> list[_Stage]:
    mel_config = MelConfig(**data.mel)
    aligned = _Aligned(codec, LogMel(mel_config))
    return [
        _Stage("codec", aligned.codes, len(wav), "share of codes"),
        *(
            _Stage(
                f"mel {variant}", aligned.mel(row), len(wav), "log10 units", control_reach=lookahead_samples(variant)
            )
            for row, variant in enumerate(mel_config.variants)
        ),
    ]


def _run_stages(model: HybridLM, data: TrainedOn, codec: Codec, wav: np.ndarray) -> list[_Stage]:
    aligned = _Aligned(codec, LogMel(replace(MelConfig(**data.mel), variants=(data.mel_variant,))))
    mel = aligned.mel(0)

    def predicted(wav: np.ndarray) -> tuple[Prediction, torch.Tensor]:
        codes = torch.from_numpy(aligned.codes(wav).T[None]).long()  # [1, K, T]
        frames = torch.from_numpy(mel(wav)).float()[None]  # [1, T, M]
        return predict(model, codes, frames), codes

    @torch.no_grad()
    def logits(wav: np.ndarray) -> np.ndarray:
        """Return the logits `[T, V]` of each frame's coarsest code given the frames before it."""
        return predicted(wav)[0].logits[0].numpy()

    @torch.no_grad()
    def finer_logits(wav: np.ndarray) -> np.ndarray:
        """Return the logits `[T, K − 1, V]` of each frame's finer codes given also the coarser ones of the frame."""
        assert model.depth is not None
        prediction, codes = predicted(wav)
        return model.depth(prediction.hidden[0], codes[0, : model.config.output_codebooks].T).numpy()

    stages = [_Stage("codec", aligned.codes, len(wav), "share of codes")]
    if model.config.hybrid:
        stages.append(_Stage(f"mel {data.mel_variant}", mel, len(wav), "log10 units"))
    window = min(len(wav), model.config.context * HOP_SAMPLES)
    stages.append(_Stage(f"model {model.config.name}", logits, window, "logits", frames_back=1))
    if model.depth is not None:
        stages.append(_Stage(f"model {model.config.name}, finer codes", finer_logits, window, "logits"))
    return stages


class _Aligned:
    """Codes and mels of clips as `preprocess` computes them; all variants are computed at once and cached."""

    def __init__(self, codec: Codec, log_mel: LogMel):
        self._codec, self._log_mel = codec, log_mel
        self._cache: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def codes(self, wav: np.ndarray) -> np.ndarray:
        """Return the codes `[T, K]` of samples `[N]`."""
        return self._of(wav)[0]

    def mel(self, variant: int) -> Stage:
        """Return a function from samples `[N]` to the log-mel `[T, M]` of a variant."""
        return lambda wav: self._of(wav)[1][variant]

    def _of(self, wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = hashlib.sha256(wav.tobytes()).digest()
        if key not in self._cache:
            (segments,) = map(list, align_recordings([[wav]], self._codec, self._log_mel, frame_count(len(wav))))
            self._cache[key] = segments[0].codes.T, segments[0].mels
        return self._cache[key]


def _audit(stage: _Stage, wav: np.ndarray) -> StageAudit:
    findings = audit_stage(stage.name, stage.run, wav, frames_to_audit(frame_count(len(wav))), stage.permitted)
    rule = "up to 320·t − 1" if stage.frames_back else "up to 320·t + 319"
    verdict, passed = judge(findings, stage.control_reach)
    return StageAudit(stage.name, rule, stage.unit, verdict, passed, findings)


def judge(findings: list[Finding], control_reach: int = 0) -> tuple[str, bool]:
    """Return the verdict on a stage, and whether it passes.

    `control_reach`: how many samples past its frame a labelled control is meant to see; 0 for anything else.
    """
    if any(f.ignores_input for f in findings):
        return "ignores its input", False
    ahead = max(f.samples_ahead for f in findings)
    if control_reach and not ahead:
        return "no leak, but it is the control", False  # then the audit cannot detect a leak
    if control_reach and ahead <= control_reach:
        return "leak (the control)", True
    return ("leak", False) if ahead else ("causal", True)
