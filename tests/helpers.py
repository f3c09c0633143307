"""Helpers shared by several test files."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pytest
import torch
from torch import nn

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.event_log import LOGS_FOLDER
from whisper_gpt.manifests.location import Location, file_sha256, list_files
from whisper_gpt.manifests.scratch import scratch_folder
from whisper_gpt.pipeline.shards.plan import PLAN, PlanSettings
from whisper_gpt.pipeline.shards.plan_order import Sorter
from whisper_gpt.pipeline.shards.source import Source

FAST_TRAINING = ["--batch=2", "--context=64", "--eval-batches=1", "--clip-s=0"]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
_Model = TypeVar("_Model", bound=nn.Module)

NEEDS_BROWSER = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)
NEEDS_COMPILER = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of stderr, which must not hold a traceback."""
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    return text.splitlines()[-1]


def hashes(dataset: Location) -> dict[str, str]:
    """Return the SHA-256 of every committed file of a dataset, i.e. all files except logs."""
    names = (name for name in list_files(dataset) if not name.startswith(f"{LOGS_FOLDER}/"))
    return {name: file_sha256(dataset / name) for name in names}


def plan_of(
    sources: Sequence[Source], settings: PlanSettings, first_shards: Mapping[str, int] | None = None
) -> pa.Table:
    """Return the plan of `sources`, as `preprocess` would write it."""
    with scratch_folder() as scratch:
        sorter = Sorter(scratch, settings.corpus)
        for source in sources:
            sorter.add(source)
        return pa.concat_tables([PLAN.empty_table(), *sorter.planned(settings, first_shards)])


def without_zero_weights(model: _Model) -> _Model:
    """Add noise to every weight of `model`, so that every branch has an effect: fresh ones end in zero weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def train_context_64(dataset: Path, out: Path, *options: str) -> int:
    """Run `whisper-gpt train` in this process with batch 2 and context 64; return its exit code."""
    return cli.main(["train", str(dataset), "--out", str(out), *FAST_TRAINING, *options])
