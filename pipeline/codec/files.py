"""Find a codec's weights file: official EnCodec 24 kHz, the small codec in this package, or one from `train-codec`."""

import os
from importlib.resources import files
from pathlib import Path

from whisper_gpt.pipeline.errors import PipelineError

OFFICIAL_NAME = "encodec_24khz"
OFFICIAL_FILE = "encodec_24khz-d7cc33bc.th"
OFFICIAL_SHA256_PREFIX = "d7cc33bc"
WEIGHTS_VARIABLE = "WHISPER_GPT_CODEC_WEIGHTS"
OFFICIAL_URL = f"https://dl.fbaipublicfiles.com/encodec/v0/{OFFICIAL_FILE}"
SMALL_NAME = "encodec_24khz_small"
MEDIUM_NAME = "encodec_24khz_medium"
INCLUDED = (SMALL_NAME, MEDIUM_NAME)  # in this package
NAMES = (OFFICIAL_NAME, *INCLUDED)


class WeightsUnavailable(PipelineError):
    """The official weights are not on this machine and could not be downloaded."""


def weights_file(name: str, weights: Path | None = None, download: bool = True) -> Path:
    """Return the absolute path of the weights of codec `name`, which may be the path of a file from `train-codec`.

    `weights` is for the official codec only; without it the checkpoint is downloaded into torch's hub cache, unless it
    is there already. Raises `WeightsUnavailable` if that fails, or is not wanted (`download`), and `PipelineError` if
    the name is unknown or the file is missing.
    """
    if name == "encodec_48khz":
        raise PipelineError(
            "codec encodec_48khz cannot be used: it is not causal and normalises the loudness of every segment, "
            "so its codes depend on the future; use encodec_24khz"
        )
    if name == OFFICIAL_NAME:
        return _official_file(weights, download)
    if name not in INCLUDED and not name.endswith(".safetensors"):
        raise PipelineError(
            f"codec {name!r} is not known; use {', '.join(NAMES)} or the .safetensors file of a run of train-codec"
        )
    if weights is not None:
        raise PipelineError(f"--codec-weights {weights}: only for {OFFICIAL_NAME}, not for {name}")
    if name in INCLUDED:
        return Path(str(files("whisper_gpt.pipeline.codec") / f"{name}.safetensors"))
    if not Path(name).is_file():
        raise PipelineError(f"codec {name}: no such file")
    return Path(name).absolute()


def _official_file(weights: Path | None, download: bool) -> Path:
    if weights is None and os.environ.get(WEIGHTS_VARIABLE):
        weights = Path(os.environ[WEIGHTS_VARIABLE])
    if weights is not None:
        if not weights.is_file():
            raise PipelineError(f"codec weights {weights}: no such file; expected a copy of {OFFICIAL_URL}")
        return weights.absolute()
    cached = _hub_folder() / "checkpoints" / OFFICIAL_FILE
    if not cached.is_file() and not download:
        raise WeightsUnavailable(
            f"the EnCodec weights are not on this machine; get {OFFICIAL_URL}, and pass it with --codec-weights FILE"
        )
    if not cached.is_file():
        from torch.hub import download_url_to_file  # slow to import, and only needed here

        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(OFFICIAL_URL, str(cached), hash_prefix=OFFICIAL_SHA256_PREFIX, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsUnavailable(
                f"the EnCodec weights are missing and could not be downloaded ({error}); get {OFFICIAL_URL} and pass "
                f"it with --codec-weights FILE or ${WEIGHTS_VARIABLE}, or use a codec in the package: "
                f"--codec {MEDIUM_NAME}"
            ) from error
    return cached.absolute()


def _hub_folder() -> Path:
    """Return torch.hub's download folder, as `torch.hub.get_dir` does, but without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub"
