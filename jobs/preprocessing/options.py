"""The options that define a dataset, and what they resolve to; shared by `plan` and `preprocess`."""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError, UsageError, require
from whisper_gpt.jobs.preprocessing.codec_fingerprint import begin_fingerprint
from whisper_gpt.jobs.preprocessing.planning import ABSENT_FILE
from whisper_gpt.jobs.preprocessing.scanning import Chosen, Survey, scan_corpus
from whisper_gpt.manifests.location import Location, is_folder, location
from whisper_gpt.pipeline.codec.files import INCLUDED, OFFICIAL_NAME, weights_file
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint, Precision
from whisper_gpt.pipeline.corpora.registry import CORPORA
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.mel_config import AUDIO, MelConfig
from whisper_gpt.pipeline.frames import HOP_SAMPLES, SAMPLE_RATE
from whisper_gpt.pipeline.shards.plan import PlanSettings
from whisper_gpt.pipeline.shards.task import Device, ShardJob, WorkerSetup
from whisper_gpt.pipeline.treatment import USUAL, Degradation, Resampler, Treatment

_DECODED_CODEBOOKS = (1, 2)  # decoded for --mel-of both, in addition to all codebooks
_LEAKY = "centred-2048"


@dataclass(frozen=True)
class DatasetOptions:
    """Options that `whisper-gpt plan` and `whisper-gpt preprocess` share."""

    corpus: Positional[Annotated[str, arg(metavar="{" + "|".join(CORPORA) + "}")]]
    """Layout of the source."""
    source: Positional[UPath | None] = None
    """Folder, or s3:// or gs:// prefix, of the corpus (synthetic: a new folder to write to, by default OUT.source)."""
    name: str | None = None
    """Name of the corpus in keys and in the manifest; by default its layout. Two folders with files of the same names
    need different names if their datasets are to be merged later."""
    out: UPath = field(kw_only=True)
    """Folder, or s3:// or gs:// prefix, of the dataset to write or to resume."""
    codec: str = OFFICIAL_NAME
    """Codec to encode with: encodec_24khz; encodec_24khz_small or encodec_24khz_medium, which are included; or the
    .safetensors file of a codec trained here. (EnCodec's 48 kHz model is not causal, so it is not offered.)"""
    codec_weights: Path | None = None
    """File with encodec_24khz's official weights, as .th or as Hugging Face's .safetensors (by default
    $WHISPER_GPT_CODEC_WEIGHTS, else torch's hub cache, else a download)."""
    codebooks: int = 8
    """Number of codebooks to keep, coarsest first: 8 of 1024 codewords are 6 kbps."""
    precision: Precision = "fp32"
    """Precision of the codec's network. bf16 is faster on a CPU with AMX, but many codes differ, so it has its own
    fingerprint."""
    device: Device = "cpu"
    """Device that workers encode on."""
    mels: int = 64
    """Number of mel bands."""
    mel_window: int = 1024
    """Length of the mel window in samples at 24 kHz; the window ends with the frame."""
    mel_floor: float = 1e-10
    """Power at which the logarithm of the mel is clamped."""
    mel_of: Literal["audio", "codes", "both"] = "audio"
    """Source of the mel: audio; codes, the audio decoded from the codes, which is all that a generating model can know;
    or both, the mel of the audio and, in a second member (mel_variants.npy), those of 1, 2 and all codebooks
    decoded."""
    leaky_control: bool = False
    """Add a mel with a centred window of 2048 samples to mel_variants.npy: it sees 704 samples of the future, and is
    the control that measures what such a leak is worth. Do not train on it for any other purpose."""
    segment_s: float = 30.0
    """Length of the longest sample in seconds; longer recordings are cut into several samples."""
    speed: float = USUAL.speed
    """Play the audio this many times as fast, pitch and formants included: 0.9 and 1.1 are the usual copies for speed
    perturbation."""
    resampler: Resampler = USUAL.resampler
    """Filter of the resampler to 24 kHz: linear-phase (soxr HQ), which looks some milliseconds ahead, at −80 dB; or
    minimum-phase, which is strictly causal."""
    degradation: Degradation = USUAL.degradation
    """Degrade the audio, to test robustness or to train for it: pink noise at 20, 10 or 0 dB (noise-20, …), a room that
    reverberates for half a second, a telephone's band, an MP3 of 32 kbps, or clipping."""
    shard_mb: float | None = None
    """Approximate size of a shard in MB; a shard is the unit of work, of retries and of reading. By default the plan
    chooses it: about a thousand shards, of 8 to 128 MB, each of several recordings."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    """Splits to make."""
    exclude: tuple[str, ...] = ()
    """Files and folders of the source to skip: patterns of their names (such as lost+found), or of their paths below
    SOURCE (such as */rejected/*), in which * matches slashes too."""
    hold_out: tuple[float, float] = (0.0, 0.0)
    """Shares of the training speakers that are moved to the validation and the test split, each speaker as a whole: for
    a corpus without such splits, such as LibriSpeech's train-* alone."""
    workers: int | None = None
    """Number of workers, each on one core (with --device cuda, with a GPU too); by default as many as the cluster has
    room for. 0 works in this process, without Ray."""
    require_complete: bool = False
    """Refuse a corpus with missing files that its own metadata lists."""
    extend: bool = False
    """Add new files of the source to the existing dataset, as further shards."""
    retry_failed: bool = False
    """Retry failed files, into further shards."""

    @property
    def corpus_name(self) -> str:
        """The name of the corpus in keys and in the manifest."""
        return self.name or self.corpus


def check(options: DatasetOptions) -> None:
    """Raise `UsageError` for option values that are invalid for any data."""
    require(options.corpus in CORPORA, f"{options.corpus}: unknown corpus; use one of {', '.join(CORPORA)}")
    needs_source = options.corpus != "synthetic"
    require(options.source is not None or not needs_source, f"{options.corpus} needs the folder of the corpus")
    named = options.name is None or re.fullmatch(r"[A-Za-z0-9-]{1,32}", options.name) is not None
    require(named, f"--name {options.name}: must be 1 to 32 letters, digits and hyphens")
    for name in ("segment_s", "shard_mb"):
        value = getattr(options, name)
        require(value is None or 0 < value < math.inf, f"--{name.replace('_', '-')} {value}: must be above zero")
    require(0.5 <= options.speed <= 2, f"--speed {options.speed}: must be between 0.5 and 2")
    usual = options.speed == 1 or options.resampler == "linear-phase"
    require(usual, "--resampler minimum-phase is for ratios of whole sample rates: not with --speed")
    validation, test = options.hold_out
    shares = min(validation, test) >= 0 and validation + test < 1
    require(shares, f"--hold-out {validation} {test}: must be two shares of the speakers with a sum below 1")
    require(bool(options.splits), "--splits needs at least one of train, validation, test")
    require(options.workers is None or options.workers >= 0, f"--workers {options.workers}: must not be negative")
    require(options.codebooks >= 1, f"--codebooks {options.codebooks}: must be at least 1")
    try:
        _mel_config(options)
    except PipelineError as error:
        raise UsageError(str(error)) from error


def survey(options: DatasetOptions, root: Location, folder: Path, console: Console) -> Survey:
    """Scan the corpus into a file in `folder`, and print warnings. Raises `JobError` if there are no recordings."""
    chosen = Chosen(options.splits, options.hold_out, options.exclude, _treatment(options))
    found = scan_corpus(CORPORA[options.corpus], options.corpus_name, root, chosen, folder / "found.parquet")
    if found.absent and options.require_complete:
        raise JobError(f"{len(found.absent)} files of the corpus are missing, such as {min(found.absent)}; complete it")
    for warning in _warnings(found, options):
        console.print(f"warning: {warning}")
    return found


def begin_settings(options: DatasetOptions) -> Callable[[], PlanSettings]:
    """Start computing the codec's fingerprint; return a function that waits for it and returns the plan's settings.

    Raises `PipelineError` if the codec is not found.
    """
    weights = weights_file(options.codec, options.codec_weights)
    in_process = options.workers == 0  # which loads the codec anyway
    wait = begin_fingerprint(weights, options.codebooks, options.precision, in_process)
    return lambda: _plan_settings(options, wait())


def worker_setup(options: DatasetOptions, root: Location, settings: PlanSettings) -> WorkerSetup:
    """Return what workers need to make the dataset's shards."""
    job = ShardJob(root, location(options.out), settings.fingerprint, settings.segment_frames, settings.treatment)
    included = options.codec in INCLUDED  # each node has it in its own installation
    weights = None if included else weights_file(options.codec, options.codec_weights)
    return WorkerSetup(job, settings.codec, weights, settings.mel, options.device)


def source_root(options: DatasetOptions) -> Location:
    """Return the folder of the corpus. Raises `JobError` if it does not exist."""
    if options.source is None:
        out = location(options.out)
        return out.with_name(f"{out.name}.source")
    source = location(options.source)
    if options.corpus != "synthetic" and not is_folder(source):
        raise JobError(f"{options.source}: no such folder; pass the folder of the unpacked corpus")
    return source


def _mel_config(options: DatasetOptions) -> MelConfig:
    decoded = sorted({min(count, options.codebooks) for count in _DECODED_CODEBOOKS} | {options.codebooks})
    variants = {
        "audio": [AUDIO],
        "codes": [f"codes-{options.codebooks}"],
        "both": [AUDIO, *(f"codes-{count}" for count in decoded)],
    }[options.mel_of]
    if options.leaky_control:
        variants.append(_LEAKY)
    return MelConfig(
        bands=options.mels,
        window_samples=options.mel_window,
        floor=options.mel_floor,
        variants=tuple(variants),
    )


def _plan_settings(options: DatasetOptions, codec: CodecFingerprint) -> PlanSettings:
    return PlanSettings(
        corpus=options.corpus_name,
        codec=codec,
        mel=_mel_config(options),
        segment_frames=max(1, round(options.segment_s * SAMPLE_RATE / HOP_SAMPLES)),
        shard_mb=options.shard_mb,
        splits=tuple(options.splits),
        **asdict(_treatment(options)),
    )


def _treatment(options: DatasetOptions) -> Treatment:
    return Treatment(options.speed, options.resampler, options.degradation)


def _warnings(found: Survey, options: DatasetOptions) -> list[str]:
    warnings = list(found.warnings)
    if found.absent:
        listed = options.out / ABSENT_FILE
        warnings.append(f"{len(found.absent)} files in the corpus metadata are missing (listed in {listed})")
    if empty := [split for split in options.splits if split not in found.per_split]:
        warnings.append(f"no recordings in the splits {', '.join(empty)}")
    return warnings
