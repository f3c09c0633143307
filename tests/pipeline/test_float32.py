"""Codes and mel do not depend on what a process allows matrix products: TF32, bfloat16, autocast."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig

OPERATIONS: list[Any] = [
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.cudnn.rnn,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
    torch.backends.mkldnn.rnn,
]


def allowed() -> list[str]:
    return [operation.fp32_precision for operation in OPERATIONS]


@contextlib.contextmanager
def older_setting() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    yield


@contextlib.contextmanager
def newer_setting() -> Iterator[None]:
    """With which torch refuses to read the older one."""
    for operation in OPERATIONS:
        operation.fp32_precision = "tf32"
    with pytest.raises(RuntimeError):
        torch.get_float32_matmul_precision()
    yield


SETTINGS = {
    "older": older_setting,
    "newer": newer_setting,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = allowed()
    yield
    torch.set_float32_matmul_precision("highest")
    for operation, precision in zip(OPERATIONS, before, strict=True):
        operation.fp32_precision = precision


class Products(TorchDispatchMode):
    """Looks at every product: which, of which types, and what was allowed at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if any(part in name for part in ("mm", "conv", "lstm", "rnn", "linear")):
            dtypes = {argument.dtype for argument in args if isinstance(argument, torch.Tensor)}
            self.seen.setdefault(name, set()).add((*dtypes, *allowed()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("setting", SETTINGS)
def test_products_that_decide_codes_and_mel_are_full_float32(codec: Codec, setting: str) -> None:
    wav = np.random.default_rng(0).standard_normal(9600).astype(np.float32) / 10
    log_mel = LogMel(MelConfig())
    codes, mel = codec.encode(wav), log_mel(torch.from_numpy(wav))
    audio = codec.decode(codes)
    with SETTINGS[setting](), Products() as products:
        before = allowed()
        again, mel_again = codec.encode(wav), log_mel(torch.from_numpy(wav))
        audio_again = codec.decode(codes)
        assert allowed() == before
    assert "addmm" in products.seen and any("conv" in name for name in products.seen)
    for name, found in products.seen.items():
        assert found == {(torch.float32, *["ieee"] * len(OPERATIONS))}, name
    assert np.array_equal(codes, again) and np.array_equal(audio, audio_again) and torch.equal(mel, mel_again)


def test_the_older_setting_is_put_back(codec: Codec) -> None:
    torch.set_float32_matmul_precision("high")
    before = allowed()
    codec.encode(np.zeros(960, np.float32))
    assert torch.get_float32_matmul_precision() == "high" and allowed() == before
