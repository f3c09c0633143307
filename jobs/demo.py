"""Run the whole pipeline on synthetic audio: preprocess, inspect, verify, train two models, generate, evaluate."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.pipeline.codec.files import SMALL_NAME
from whisper_gpt.pipeline.corpora import synthetic


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt demo`."""

    out: Path = Path("demo-out")
    """Folder for all results; must be new or empty."""
    minutes: float = 1.1
    """Training time in minutes of each of the two models."""
    utterances: int = 120
    """Number of speech-like utterances to synthesise, of about 5 s each."""
    pieces: int = 16
    """Number of piano-like pieces to synthesise, of 30 s each."""
    workers: int | None = None
    """Number of preprocessing workers; one per core if not given."""


def run(config: Config) -> int:
    """Run the main verbs as a user would type them, ending with the table of scores; return exit code 0."""
    if config.out.exists() and any(config.out.iterdir()):
        raise JobError(f"{config.out}: not empty; remove it, or pass another --out")
    console = status_console()
    out, started = config.out, time.monotonic()
    source, dataset = out / "source", out / "dataset"
    hybrid, baseline = out / "runs" / "hybrid-4m", out / "runs" / "gpt-4m"

    console.rule("synthetic audio, laid out like LibriSpeech and MAESTRO")
    synthetic.write(source, synthetic.SyntheticSize(config.utterances, config.pieces))
    console.print(f"{config.utterances} utterances and {config.pieces} pieces in {source}")

    workers = [f"--workers={config.workers}"] if config.workers else []
    _verb(console, "preprocess", "synthetic", source, "--out", dataset, "--codec", SMALL_NAME, "--shard-mb=1", *workers)
    _verb(console, "inspect", dataset, "--html", out / "dataset.html")
    _verb(console, "verify", dataset)
    for model, folder in (("hybrid-4m", hybrid), ("gpt-4m", baseline)):
        _verb(console, "train", dataset, "--out", folder, "--model", model, "--batch=4", f"--minutes={config.minutes}")
    prompt = sorted((source / "LibriSpeech" / "test-clean").rglob("*.flac"))[0]
    wav = out / "continuation.wav"
    _verb(console, "generate", hybrid, "--prompt", prompt, "--seconds=5", "--top-k=50", "--out", wav)
    speech = out / "speech-model.wav"
    _verb(console, "generate", "--prompt", prompt, "--seconds=5", "--temperature=0.95", "--out", speech)

    console.rule(f"done in {time.monotonic() - started:.0f} s, except for the table; the results are in")
    for label, path in (
        ("synthetic audio", source),
        ("shards, manifest, dataset.json", dataset),
        ("summary of the dataset as a page", out / "dataset.html"),
        ("trained models (tensorboard --logdir shows the curves)", out / "runs"),
        ("prompt and continuation by the model trained just now, of the coarsest of 8 codebooks", wav),
        ("the same by the speech model in the package, of all 8", speech),
    ):
        console.print(f"{path}  {label}")
    _verb(console, "evaluate", dataset, hybrid, baseline)
    return 0


def _verb(console: Console, verb: str, *arguments: str | Path) -> None:
    """Print a command and run it. Raises `JobError` if it fails."""
    words = [str(argument) for argument in arguments]
    console.rule()
    console.print(f"$ {shlex.join(['whisper-gpt', verb, *words])}")
    code = cli.run_verb(verb, words)
    if code != 0:
        raise JobError(f"whisper-gpt {verb} failed with exit code {code}")
