"""Distributed context: rank, world size, device, and the few collectives that training needs."""

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

Precision = Literal["fp32", "bf16"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]
DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `world_size`, and computes on `device`."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and logs."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sum of each value over all ranks, bit-identical on every rank."""
        if self.world_size == 1:
            return list(values)
        return self.add(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """All-reduce (sum) `values`, on this rank's device, in place; bit-identical on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return the values of rank 0."""
        return self.add(self.main_only(values)).tolist()

    def main_only(self, values: Sequence[float]) -> torch.Tensor:
        """Return `values` as float64 on the device, zeros on other ranks than 0: `add` then gives every rank those of
        rank 0. The host does not wait for the copy."""
        own = [value if self.is_main else 0.0 for value in values]
        pin = self.device.type == "cuda"
        return torch.tensor(own, dtype=torch.float64, pin_memory=pin).to(self.device, non_blocking=True)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap `module` in DDP, which averages its gradients over all ranks; on one rank return it as it is."""
        if self.world_size == 1:
            return module
        # Buffers are constants; gradients that are views of the buckets need no copy.
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def grad_sync(self, module: nn.Module, now: bool) -> contextlib.AbstractContextManager[object]:
        """Sync gradients in backward if `now` (the last micro-batch), else accumulate locally (`no_sync`)."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
            return module.no_sync()
        return contextlib.nullcontext()


def single_process(device: DeviceChoice) -> Ranks:
    """Return the context of a single process."""
    chosen = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    return Ranks(0, 1, torch.device(chosen))


def choose_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """Return `choice`; "auto" becomes bf16 on GPUs that compute in bfloat16 themselves, else fp32."""
    if choice != "auto":
        return choice
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def seed_everything(seed: int, step: int, rank: int) -> None:
    """Seed torch, NumPy and Python from (seed, step, rank).

    Called at every step, so that a step's random numbers are a function of the step: a resumed run needs no generator
    state, on any number of ranks.
    """
    drawn = np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]
    torch.manual_seed(int(drawn))
    np.random.seed(int(drawn))  # noqa: NPY002 – libraries draw from the global generator
    random.seed(int(drawn))


def make_deterministic() -> None:
    """Let torch use only deterministic algorithms. Call before anything runs on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Make CPU code bit-reproducible within the block, compiled code too; on a GPU `make_deterministic` does that.

    torch's eager CPU code always is; but torch.compile sums an embedding's gradient by atomic additions of several
    threads, in arbitrary order, unless only deterministic algorithms are allowed.
    """
    if device.type != "cpu":
        yield
        return
    settings: Any = torch.utils.deterministic  # its type stubs lack this setting
    fill, before = settings.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings.fill_uninitialized_memory = False  # filling only costs time
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        settings.fill_uninitialized_memory = fill


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return torch's autocast to bfloat16 for bf16, a null context for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
