"""Where a codec's weights lie: official EnCodec 24 kHz, the small codec in this package, or one trained here."""

import os
from importlib.resources import files
from pathlib import Path

from pipeline.errors import PipelineError

OFFICIAL_NAME = "encodec_24khz"
OFFICIAL_FILE = "encodec_24khz-d7cc33bc.th"
OFFICIAL_SHA256_PREFIX = "d7cc33bc"
WEIGHTS_VARIABLE = "WHISPER_GPT_CODEC_WEIGHTS"
OFFICIAL_URL = f"https://dl.fbaipublicfiles.com/encodec/v0/{OFFICIAL_FILE}"
SMALL_NAME = "encodec_24khz_small"
NAMES = (OFFICIAL_NAME, SMALL_NAME)


def weights_file(name: str, weights: Path | None = None) -> Path:
    """The absolute path of the file that holds the codec `name`, as `load_codec` finds it.

    The official checkpoint is fetched into torch's hub cache if it is nowhere yet. A `name` that is neither known nor
    a file is that of a codec trained here, which `weights` must then hold.
    """
    if name == "encodec_48khz":
        raise PipelineError(
            "codec encodec_48khz cannot be used: it is not causal and scales every segment by its own loudness, "
            "so its codes look into the future; use encodec_24khz"
        )
    if name == SMALL_NAME:
        if weights is not None:
            raise PipelineError(f"--codec-weights {weights}: {SMALL_NAME} comes with its own")
        return Path(str(files("pipeline.codec") / f"{SMALL_NAME}.safetensors"))
    if name == OFFICIAL_NAME:
        return _official_file(weights)
    if weights is None and name.endswith(".safetensors"):
        weights = Path(name)
    if weights is None:
        raise PipelineError(
            f"codec {name!r} is not known; use {', '.join(NAMES)} or the .safetensors file of a codec trained here"
        )
    if not weights.is_file():
        raise PipelineError(f"codec weights {weights}: no such file")
    return weights.absolute()


def _official_file(weights: Path | None) -> Path:
    if weights is None and os.environ.get(WEIGHTS_VARIABLE):
        weights = Path(os.environ[WEIGHTS_VARIABLE])
    if weights is not None:
        if not weights.is_file():
            raise PipelineError(f"codec weights {weights}: no such file; expected a copy of {OFFICIAL_URL}")
        return weights.absolute()
    import torch  # slow to import, and only needed here

    cached = Path(torch.hub.get_dir()) / "checkpoints" / OFFICIAL_FILE
    if not cached.is_file():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                OFFICIAL_URL, str(cached), hash_prefix=OFFICIAL_SHA256_PREFIX, progress=False
            )
        except (OSError, RuntimeError) as error:
            raise PipelineError(
                f"the EnCodec weights are not here and could not be fetched ({error}); get {OFFICIAL_URL} and pass it "
                f"with --codec-weights FILE or ${WEIGHTS_VARIABLE}, or use the small codec: --codec {SMALL_NAME}"
            ) from error
    return cached.absolute()
