"""Whether a dataset's mel is like that of a model's training data: otherwise its likelihoods say little."""

from pathlib import Path

import numpy as np

from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.location import Location
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.language_model import LanguageModel

_SHIFTED = 0.5  # standard deviations


def mel_shift(model_mean: np.ndarray, model_std: np.ndarray, mean: np.ndarray) -> float:
    """Return by how many of the model's standard deviations `[M]` two means `[M]` differ, on average over the bands."""
    return float(np.abs((mean - model_mean) / model_std).mean())


def mel_warning(model: LanguageModel, info: DatasetInfo, variant: str, run: Path, dataset: Location) -> str | None:
    """Say that a dataset's mel differs from that of a run's training data, if it does and the model reads mel."""
    if not isinstance(model, HybridLM) or not model.config.hybrid or not info.mel_mean:
        return None
    mean = np.array(info.mel_mean[info.mel["variants"].index(variant)])
    encoder = model.mel_encoder
    shift = mel_shift(encoder.mel_mean.numpy(), encoder.mel_std.numpy(), mean)
    if shift <= _SHIFTED:
        return None
    return (
        f"warning: the mel of {dataset} is {shift:.1f} standard deviations from that of {run}'s training data, on "
        "average over the bands: another level, or another kind of sound"
    )
