"""Measure everything that a GPU does here, the most important first, within a time limit."""

import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from whisper_gpt.jobs.benchmarks.gpu_probe import ITEMS
from whisper_gpt.jobs.benchmarks.timing import last_line
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.training.distributed import DeviceChoice, single_process
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.corpora import synthetic

_LEAST_S = 20.0  # an item with less time left is not begun


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench gpu`."""

    out: Path
    """Folder to write gpu.json and gpu.md to, which grow with every figure."""
    minutes: float = 20.0
    """Time for all measurements together; none may take more than half of it."""
    size: float = 1.0
    """Share of the full batches and steps, 0 to 1; a small share is enough to see whether everything runs."""
    dataset: Path | None = None
    """Folder of a dataset made by preprocess, to train on; by default one of synthetic audio is made."""
    device: DeviceChoice = "auto"
    """Device to measure; auto takes a GPU if torch finds one."""


@dataclass
class Report:
    """The figures so far: rows of item, what, value and unit; and how each item ended."""

    machine: str
    figures: list[dict] = field(default_factory=list)
    items: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return a table of the figures, and below it what did not end well."""
        rows = [f"| {row['item']} | {row['what']} | {_rounded(row['value'])} {row['unit']} |" for row in self.figures]
        ends = [f"- {item}: {end}" for item, end in self.items.items() if end != "done"]
        table = ["| item | what | figure |", "|---|---|---|", *rows]
        return "\n".join([f"`whisper-gpt bench gpu` on {self.machine}", "", *table, "", *ends]).rstrip() + "\n"


def run(config: Config) -> int:
    """Measure, save and print; return exit code 0, or 1 if not a single figure was measured."""
    require(
        config.minutes > 0 and 0 < config.size <= 1, "--minutes must be above zero, --size above zero and at most 1"
    )
    device, console = single_process(config.device).device, status_console()
    report, end = Report(_machine(device)), time.monotonic() + 60 * config.minutes
    _save(config.out, report)
    with tempfile.TemporaryDirectory(prefix="whisper-gpt-bench-") as folder:
        dataset = config.dataset or _made(Path(folder))
        for item in ITEMS:
            left = min(end - time.monotonic(), 30 * config.minutes)
            if left < _LEAST_S:
                report.items[item] = "not begun: no time left"
            else:
                for row in _measure(item, device, config.size, dataset, left, report):
                    console.print(f"{item}: {row['what']}: {_rounded(row['value'])} {row['unit']}", highlight=False)
                    _save(config.out, report)
            _save(config.out, report)
    Console(highlight=False).print(report.markdown(), markup=False)
    return 0 if report.figures else 1


def _measure(
    item: str, device: torch.device, size: float, dataset: Path, limit_s: float, report: Report
) -> Iterator[dict]:
    """Run an item in its own process; yield its figures as they come, and note how it ended."""
    command = [
        sys.executable,
        "-m",
        "whisper_gpt.jobs.benchmarks.gpu_probe",
        item,
        str(device),
        str(size),
        str(dataset),
    ]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            timer = threading.Timer(limit_s, process.kill)
            timer.start()
            for line in process.stdout or ():
                report.figures.append({"item": item, **json.loads(line)})
                yield report.figures[-1]
            code, in_time = process.wait(), timer.is_alive()
            timer.cancel()
        errors.seek(0)
        failed = f"failed: {last_line(errors.read())}" if in_time else f"stopped after {limit_s:.0f} s"
    report.items[item] = failed if code else "done"


def _save(out: Path, report: Report) -> None:
    publish_bytes(out / "gpu.json", json.dumps(vars(report), indent=1).encode())
    publish_bytes(out / "gpu.md", report.markdown().encode())


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return f"{name}, torch {torch.__version__}"


def _made(folder: Path) -> Path:
    """Make a dataset of synthetic audio with the codec in the package."""
    synthetic.write(folder / "audio", synthetic.SyntheticSize(utterances=200, pieces=20))
    command = [sys.executable, "-m", "whisper_gpt.jobs.cli", "preprocess", "synthetic", str(folder / "audio")]
    options = ["--out", str(folder / "set"), "--codec", "encodec_24khz_small", "--workers", "0", "--mel-of", "both"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    if done.returncode:
        raise JobError(f"preprocess failed: {last_line(done.stderr)}")
    return folder / "set"


def _rounded(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
