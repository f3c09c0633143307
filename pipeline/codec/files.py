"""Where a codec's weights lie: official EnCodec 24 kHz, the small codec in this package, or one trained here."""

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
NAMES = (OFFICIAL_NAME, SMALL_NAME)


class WeightsUnavailable(PipelineError):
    """The official weights are nowhere here, and could not be fetched."""


def weights_file(name: str, weights: Path | None = None) -> Path:
    """The absolute path of the file that holds the codec `name`, which may itself be the path of one trained here.

    The official checkpoint is fetched into torch's hub cache if it is nowhere yet; `weights` is for that codec only.
    Raises `WeightsUnavailable` where that fails, and `PipelineError` for other names and for files that are not there.
    """
    if name == "encodec_48khz":
        raise PipelineError(
            "codec encodec_48khz cannot be used: it is not causal and scales every segment by its own loudness, "
            "so its codes look into the future; use encodec_24khz"
        )
    if name == OFFICIAL_NAME:
        return _official_file(weights)
    if name != SMALL_NAME and not name.endswith(".safetensors"):
        raise PipelineError(
            f"codec {name!r} is not known; use {', '.join(NAMES)} or the .safetensors file of a codec trained here"
        )
    if weights is not None:
        raise PipelineError(f"--codec-weights {weights}: is for {OFFICIAL_NAME}; {name} comes with its own")
    if name == SMALL_NAME:
        return Path(str(files("whisper_gpt.pipeline.codec") / f"{SMALL_NAME}.safetensors"))
    if not Path(name).is_file():
        raise PipelineError(f"codec {name}: no such file")
    return Path(name).absolute()


def _official_file(weights: Path | None) -> Path:
    if weights is None and os.environ.get(WEIGHTS_VARIABLE):
        weights = Path(os.environ[WEIGHTS_VARIABLE])
    if weights is not None:
        if not weights.is_file():
            raise PipelineError(f"codec weights {weights}: no such file; expected a copy of {OFFICIAL_URL}")
        return weights.absolute()
    cached = _hub_folder() / "checkpoints" / OFFICIAL_FILE
    if not cached.is_file():
        from torch.hub import download_url_to_file  # slow to import, and only needed here

        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            download_url_to_file(OFFICIAL_URL, str(cached), hash_prefix=OFFICIAL_SHA256_PREFIX, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsUnavailable(
                f"the EnCodec weights are not here and could not be fetched ({error}); get {OFFICIAL_URL} and pass it "
                f"with --codec-weights FILE or ${WEIGHTS_VARIABLE}, or use the small codec: --codec {SMALL_NAME}"
            ) from error
    return cached.absolute()


def _hub_folder() -> Path:
    """Where torch.hub keeps what it fetched (`torch.hub.get_dir`, without importing torch)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub"
