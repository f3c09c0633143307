"""Naturalness of speech without a reference: DNSMOS P.835 and P.808, with the models in the package speechmos."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisper_gpt.pipeline.judge.packages import JUDGE_RATE, at_judge_rate

if TYPE_CHECKING:
    from speechmos.dnsmos import DNSMOS


@dataclass(frozen=True)
class Dnsmos:
    """Estimated mean opinion scores, 1 (bad) to 5: overall, signal and background of P.835, and the score of P.808."""

    overall: float
    signal: float
    background: float
    p808: float


def dnsmos(wav: np.ndarray) -> Dnsmos:
    """Score 24 kHz speech `[N]`, N at least 1.

    Means over windows of 9.01 s that start every second; a shorter signal is repeated, as the reference code does.
    """
    scores = _model()(at_judge_rate(wav), JUDGE_RATE, is_personalized_MOS=False)
    return Dnsmos(*(float(scores[name]) for name in ("ovrl_mos", "sig_mos", "bak_mos", "p808_mos")))


@cache
def _model() -> "DNSMOS":
    import onnxruntime  # an optional extra
    from speechmos import dnsmos as package

    folder = Path(package.__file__).with_name("dnsmos_models")
    paths = folder / "sig_bak_ovr.onnx", folder / "model_v8.onnx"
    model = package.DNSMOS(*paths)
    # By default every session busy-waits on all cores between calls, which slows other work more than it gains.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model.onnx_sess, model.p808_onnx_sess = (onnxruntime.InferenceSession(path, options) for path in paths)
    return model
