"""Codes and mel do not depend on the process's settings for matrix products: TF32, bfloat16, autocast."""

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


def precisions() -> list[str]:
    return [operation.fp32_precision for operation in OPERATIONS]


@contextlib.contextmanager
def older_setting() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    yield


@contextlib.contextmanager
def newer_setting() -> Iterator[None]:
    """Settings with which torch refuses to read the older one."""
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
def restored_precisions() -> Iterator[None]:
    before = precisions()
    yield
    torch.set_float32_matmul_precision("highest")
    for operation, precision in zip(OPERATIONS, before, strict=True):
        operation.fp32_precision = precision


class ProductRecorder(TorchDispatchMode):
    """Records every matrix product: operation, input dtypes, and the precision settings at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if any(part in name for part in ("mm", "conv", "lstm", "rnn", "linear")):
            dtypes = {argument.dtype for argument in args if isinstance(argument, torch.Tensor)}
            self.seen.setdefault(name, set()).add((*dtypes, *precisions()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("setting", SETTINGS)
def test_codes_and_mel_use_full_float32_products(codec: Codec, setting: str) -> None:
    wav = np.random.default_rng(0).standard_normal(9600).astype(np.float32) / 10
    log_mel = LogMel(MelConfig())
    codes, mel = codec.encode(wav), log_mel(torch.from_numpy(wav))
    audio = codec.decode(codes)
    with SETTINGS[setting](), ProductRecorder() as products:
        before = precisions()
        codes_again, mel_again = codec.encode(wav), log_mel(torch.from_numpy(wav))
        audio_again = codec.decode(codes)
        assert precisions() == before
    assert "addmm" in products.seen and any("conv" in name for name in products.seen)
    for name, calls in products.seen.items():
        assert calls == {(torch.float32, *["ieee"] * len(OPERATIONS))}, name
    assert np.array_equal(codes, codes_again) and np.array_equal(audio, audio_again) and torch.equal(mel, mel_again)


def test_older_setting_is_restored(codec: Codec) -> None:
    torch.set_float32_matmul_precision("high")
    before = precisions()
    codec.encode(np.zeros(960, np.float32))
    assert torch.get_float32_matmul_precision() == "high" and precisions() == before
