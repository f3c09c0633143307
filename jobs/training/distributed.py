"""Who trains: this process alone, or one of several that agree on every number that decides something."""

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

Precision = Literal["fp32", "bf16"]
PrecisionChoice = Literal["auto", "fp32", "bf16"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Ranks:
    """This process is `rank` of `world`, and computes on `device`."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this one writes and shows."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of every value over all ranks, the same bits on each."""
        if self.world == 1:
            return list(values)
        return self.add(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def add(self, values: torch.Tensor) -> torch.Tensor:
        """`values` on this rank's device, added up over all ranks in place, the same bits on each."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def of_leader(self, values: Sequence[float]) -> list[float]:
        """The leader's values."""
        return self.sum([value if self.leads else 0.0 for value in values])

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module`, whose gradients are then averaged over all ranks."""
        return module if self.world == 1 else nn.parallel.DistributedDataParallel(module)

    def exchange(self, module: nn.Module, now: bool) -> contextlib.AbstractContextManager[object]:
        """Where the gradients of a wrapped `module` are exchanged at the end of backward, or only added up here."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
            return module.no_sync()
        return contextlib.nullcontext()


def alone(device: DeviceChoice) -> Ranks:
    """This process by itself."""
    found = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    return Ranks(0, 1, torch.device(found))


def choose_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """Return `choice`; "auto" becomes bf16 on GPUs and CPUs that compute in bfloat16 themselves, else fp32."""
    if choice != "auto":
        return choice
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = _CPU_INFO.read_text() if _CPU_INFO.is_file() else ""
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


def seed_everything(seed: int, step: int, rank: int) -> None:
    """Seed torch, NumPy and Python from (seed, step, rank).

    Done at every step, so that the random numbers of a step are a function of the step: a run that goes on needs no
    generator's state, on however many ranks.
    """
    drawn = np.random.SeedSequence((seed, step, rank)).generate_state(1)[0]
    torch.manual_seed(int(drawn))
    np.random.seed(int(drawn))  # noqa: NPY002 – the global generator is what others' code draws from
    random.seed(int(drawn))


def make_deterministic() -> None:
    """Let torch use only algorithms that give the same bits each time; before anything runs on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Within it a CPU gives the same bits each time, compiled code too; a GPU does after `make_deterministic`.

    torch's own CPU code always does, but torch.compile adds up an embedding's gradient by atomic additions of several
    threads, in whatever order they come, unless only deterministic algorithms are allowed.
    """
    if device.type != "cpu":
        yield
        return
    settings: Any = torch.utils.deterministic  # whose types know nothing of this setting
    fill, before = settings.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings.fill_uninitialized_memory = False  # which would only cost time
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        settings.fill_uninitialized_memory = fill


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Where matrix products take bfloat16, if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
