"""The options that the verbs which run trials share, and what they resolve to."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray

from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.ray_cluster import cluster
from whisper_gpt.jobs.reproduction.plan import Search
from whisper_gpt.jobs.reproduction.trials import Budget
from whisper_gpt.jobs.training.distributed import PrecisionChoice, choose_precision, single_process
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.shards.task import Device


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """Options of all trials: search, window and batch, and how they are computed."""

    out: Path
    """Folder of the results: tables, figures, every trial; for a study its datasets as well. All machines of a cluster
    must share it."""
    seeds: int = 3
    """Number of trials per row, with different initial weights and data orders."""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 9e-3)
    """Learning rates to try; each row takes the best one on the validation split, by its first seed."""
    context: int = 512
    """Frames per window."""
    batch: int = 8
    """Windows per step."""
    precision: PrecisionChoice = "auto"
    """Autocast precision of training; auto: bf16 on a GPU that computes in bfloat16, else fp32."""
    device: Device = "cpu"
    """Device of each trial; with cuda it takes one GPU."""
    compile: bool = False
    """Compile the models (torch.compile)."""
    threads: int = 1
    """CPU cores per trial."""
    workers: int | None = None
    """Number of trials that run in parallel on this machine; by default as many as its cores or GPUs allow. 0 runs them
    sequentially in this process, without Ray."""
    ray_address: str | None = None
    """Address of a Ray cluster for the trials, as HOST:PORT or auto; by default $RAY_ADDRESS, else this machine."""

    @property
    def search(self) -> Search:
        """The learning rates and the seeds."""
        return Search(self.learning_rates, tuple(range(self.seeds)))

    def budget_of(self, tokens: int) -> Budget:
        """Return what all trials share, with a number of training tokens."""
        return Budget(
            tokens=tokens,
            context=self.context,
            batch=self.batch,
            precision=choose_precision(self.precision, single_process(self.device).device),
            device=self.device,
            compile=self.compile,
            threads=self.threads,
        )


def check_trials(options: TrialOptions) -> None:
    """Raise `UsageError` for option values that are invalid for any data."""
    for name, bound in {"seeds": 1, "context": 2, "batch": 1, "threads": 1}.items():
        require(getattr(options, name) >= bound, f"--{name} {getattr(options, name)}: must be at least {bound}")
    require(options.workers is None or options.workers >= 0, f"--workers {options.workers}: must not be negative")
    require(not (options.workers and options.ray_address), "--workers is for this machine: not with --ray-address")
    rates = options.learning_rates
    above_zero = bool(rates) and all(0 < rate < math.inf for rate in rates)
    require(above_zero, "--learning-rates: at least one, all above zero")
    require(len(set(rates)) == len(rates), "--learning-rates: pass each only once")


def require_splits(dataset: Location, info: DatasetInfo) -> None:
    """Raise `JobError` if one of a dataset's three splits is empty."""
    for split in ("train", "validation", "test"):
        if split not in info.splits or not info.splits[split].samples:
            raise JobError(f"{dataset} has no {split} split; preprocess --hold-out makes one from whole speakers")


@contextmanager
def places(options: TrialOptions) -> Iterator[int]:
    """Start or join Ray, and yield the number of parallel trials; 0 without Ray."""
    if options.workers == 0:
        yield 0
        return
    cores = options.workers and options.workers * options.threads
    with cluster(options.ray_address, cores, options.device) as slots:
        max_cores = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        require(options.threads <= max_cores, f"--threads {options.threads}: the largest machine has {max_cores} cores")
        yield max(1, slots // (1 if options.device == "cuda" else options.threads))
