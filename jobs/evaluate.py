"""Score trained models and n-gram baselines on a split: nats per token, perplexity, top-1 accuracy."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.inference.mel_shift import mel_warning
from whisper_gpt.jobs.inference.ngram_baselines import (
    COUNTING_BYTES_PER_TOKEN,
    NGRAM_ORDERS,
    count_training,
    score_ngram,
)
from whisper_gpt.jobs.inference.run_folder import load_run, require_same_data, trained_on
from whisper_gpt.jobs.inference.scoring import Score, add_up, score_model
from whisper_gpt.jobs.training.distributed import DeviceChoice, single_process
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import location
from whisper_gpt.manifests.splits import require_samples
from whisper_gpt.model.quantization import quantize_int8
from whisper_gpt.pipeline.loading.stream import whole_split


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt evaluate`."""

    dataset: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess`."""
    runs: Positional[tuple[Path, ...]] = ()
    """Folders of training runs, or of single checkpoints."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Checkpoint of each run: the newest, or the one with the best validation score."""
    split: Literal["train", "validation", "test"] = "test"
    """Split to score; every frame is scored once."""
    batch: int = 16
    """Windows per batch."""
    baselines: bool = True
    """Also score n-gram models of the training split; counting takes about 100 bytes of memory per training token."""
    device: DeviceChoice = "auto"
    """Device to score on; auto takes a GPU if torch finds one."""
    int8: bool = False
    """Score the runs with their matrices rounded to 8 bits, as `generate --int8` runs them, on a CPU."""
    json: bool = False
    """Print a JSON list instead of the table."""


@dataclass(frozen=True)
class Row:
    """One row of the table; `nll` in nats per token of the coarsest codebook, `ppl` its exponential, `accuracy` top-1,
    from 0 to 1; `codebook_nll` in nats per token of each codebook that the model predicts, and `bits_per_s` of audio
    over all of them."""

    run: str | None  # None: an n-gram baseline
    model: str
    parameters: int
    split: str
    context: int
    nll: float
    ppl: float
    accuracy: float
    tokens: int
    codebook_nll: list[float]
    bits_per_s: float


def run(config: Config) -> int:
    """Print the table (or JSON); return exit code 0."""
    rows = evaluate(config, status_console().print)
    if config.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        Console().print(table(rows))
    return 0


def evaluate(config: Config, log: Callable[[str], None]) -> list[Row]:
    """Return the rows of the n-gram baselines (if there is a training split to count), then one per run.

    Raises `JobError` if a run was trained on other data, or if there is nothing to score.
    """
    require(config.batch >= 1, f"--batch {config.batch}: must be at least 1")
    dataset = location(config.dataset)
    info, device = read_info(dataset), single_process(config.device).device
    require_samples(dataset, info, config.split)
    loaded = [(folder, *load_run(folder, config.checkpoint == "best")) for folder in config.runs]
    for folder, model, state in loaded:
        require_same_data(state.data, trained_on(info, state.data.mel_variant), folder, config.dataset)
        if warning := mel_warning(model, info, state.data.mel_variant, folder, config.dataset):
            log(warning)
    context = loaded[0][1].config.context if loaded else 512
    rows = []
    training_tokens = info.splits["train"].frames if "train" in info.splits else 0
    if config.baselines and training_tokens:
        gigabytes = training_tokens * COUNTING_BYTES_PER_TOKEN / 1e9
        cost = f"{training_tokens:,} training tokens, about {gigabytes:.1f} GB of memory"
        log(f"counting n-grams of {cost} (--no-baselines skips this)")
        counts = count_training(dataset, context)
        for name in NGRAM_ORDERS:
            ngram, scores = score_ngram(counts, name, dataset, config.split, context)
            rows.append(_row(None, name, ngram.parameter_count(), config.split, context, add_up(scores)))
    for folder, model, state in loaded:
        shape = model.config
        windows = whole_split(dataset, config.split, shape.context, config.batch, state.data.mel_variant)
        model, parameters = model.to(device), model.parameter_count()
        if config.int8:
            quantize_int8(model)
        score = score_model(model, (batch.to(device) for batch in windows))
        rows.append(_row(str(folder), shape.name, parameters, config.split, shape.context, score))
    if not rows:
        raise JobError(f"{config.dataset}: nothing to score without a training split to count; name at least one run")
    return rows


def table(rows: list[Row]) -> Table:
    """Return the rows as a table for the terminal."""
    title = f"{rows[0].split}: {rows[0].tokens:,} frames; nats, PPL and accuracy of codebook 0"
    result = Table(box=box.SIMPLE_HEAD, title=title)
    result.add_column("model", no_wrap=True)
    several = any(len(row.codebook_nll) > 1 for row in rows)  # the terminal has no room for more without need
    for heading in (
        "params",
        "context",
        "nats/token",
        "PPL",
        "accuracy",
        *(("codebooks", "bits/s") if several else ()),
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    result.add_column("run", overflow="fold")
    for row in rows:
        result.add_row(
            row.model,
            f"{row.parameters / 1e6:.2f} M",
            str(row.context),
            f"{row.nll:.3f}",
            f"{row.ppl:.2f}",
            f"{row.accuracy:.2%}",
            *((str(len(row.codebook_nll)), f"{row.bits_per_s:,.0f}") if several else ()),
            escape(Path(row.run).name) if row.run else "–",
        )
    return result


def _row(run: str | None, model: str, parameters: int, split: str, context: int, score: Score) -> Row:
    return Row(
        run=run,
        model=model,
        parameters=parameters,
        split=split,
        context=context,
        nll=score.nll,
        ppl=math.exp(score.nll),
        accuracy=score.accuracy,
        tokens=score.tokens,
        codebook_nll=score.codebook_nll,
        bits_per_s=score.bits_per_s,
    )
