"""Loading a codec by name: EnCodec 24 kHz with its official weights, checked by hash, or seeded untrained ones."""

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.codec.causal import Codec
from pipeline.codec.encodec_import import EncodecModel, SConv1d, SConvTranspose1d
from pipeline.errors import PipelineError

WEIGHTS_VARIABLE = "WHISPER_GPT_CODEC_WEIGHTS"
OFFICIAL_FILE = "encodec_24khz-d7cc33bc.th"
OFFICIAL_URL = f"https://dl.fbaipublicfiles.com/encodec/v0/{OFFICIAL_FILE}"
OFFICIAL_SHA256_PREFIX = "d7cc33bc"
NAMES = ("encodec_24khz", "untrained")

# Of the untrained codec: about the norm of its latents on speech, and how much of it each codebook leaves over.
_CODEWORD_NORM = 1.0
_CODEWORD_NORM_RATIO = 0.9


def load_codec(name: str = "encodec_24khz", weights: Path | None = None, codebooks: int = 8) -> Codec:
    """Load the codec `name` with its first `codebooks` codebooks, ready to encode and decode on the CPU.

    `encodec_24khz` takes its weights from `weights`, else `$WHISPER_GPT_CODEC_WEIGHTS`, else torch's hub cache, else
    the official address; the file's sha256 is checked wherever it came from. `untrained` is the same architecture
    with seeded weights: its codes vary with the sound but mean nothing to an ear.
    Raises `PipelineError` for another name, a missing or damaged file, or codebooks the model does not have.
    """
    file = weights_file(name, weights)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*weight_norm", category=FutureWarning
        )  # the package's, folded below
        net = EncodecModel.encodec_model_24khz(pretrained=False)
    if file is None:
        _fold_weight_norm(net)
        _seed_weights(net, seed=0)
        digest = _state_sha256(net)
    else:
        digest = _load_official(net, file)
        _fold_weight_norm(net)
    net.eval().requires_grad_(False)
    return Codec(name, digest, codebooks, net)


def weights_file(name: str, weights: Path | None = None) -> Path | None:
    """The absolute path of the file that holds the weights of the codec `name`, as `load_codec` finds it.

    The official checkpoint is fetched into torch's hub cache if it is nowhere yet; the untrained codec has no file.
    """
    if name == "encodec_48khz":
        raise PipelineError(
            "codec encodec_48khz cannot be used: it is not causal and scales every segment by its own loudness, "
            "so its codes look into the future; use encodec_24khz"
        )
    if name not in NAMES:
        raise PipelineError(f"codec {name!r} is not known; use one of {', '.join(NAMES)}")
    if name == "untrained":
        if weights is not None:
            raise PipelineError(f"--codec-weights {weights}: the untrained codec takes no weights file")
        return None
    if weights is None and os.environ.get(WEIGHTS_VARIABLE):
        weights = Path(os.environ[WEIGHTS_VARIABLE])
    if weights is not None:
        if not weights.is_file():
            raise PipelineError(f"codec weights {weights}: no such file; expected a copy of {OFFICIAL_URL}")
        return weights.absolute()
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
                f"with --codec-weights FILE or ${WEIGHTS_VARIABLE}, or try the pipeline with --codec untrained"
            ) from error
    return cached.absolute()


def _load_official(net: EncodecModel, file: Path) -> str:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not digest.startswith(OFFICIAL_SHA256_PREFIX):
        raise PipelineError(
            f"codec weights {file}: sha256 {digest[:8]}… is not the official {OFFICIAL_SHA256_PREFIX}…; the file is "
            f"damaged or another one, fetch {OFFICIAL_URL} again"
        )
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return digest


def _fold_weight_norm(net: nn.Module) -> None:
    """Multiply each weight norm out once instead of at every call; the weights keep their values."""
    for layer in net.modules():
        if isinstance(layer, SConv1d):
            nn.utils.remove_weight_norm(layer.conv.conv)
        elif isinstance(layer, SConvTranspose1d):
            nn.utils.remove_weight_norm(layer.convtr.convtr)


def _seed_weights(net: EncodecModel, seed: int) -> None:
    """Weights under which a signal survives all layers, so that codes vary: variance 1/fan-in, zero biases.

    (With PyTorch's own initialisation the variation over time dies out and every frame gets the same code.)
    Codewords share one norm, so that the direction of a latent decides between them; each codebook is smaller than
    the one before, as the residuals are. NumPy draws the numbers: the same on every platform.
    """
    random = np.random.default_rng(seed)

    def draw(parameter: torch.Tensor, deviation: float) -> None:
        values = random.standard_normal(tuple(parameter.shape)).astype(np.float32) * np.float32(deviation)
        parameter.copy_(torch.from_numpy(values))

    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                # Each output of a transposed convolution is reached by kernel/stride taps of every input channel.
                reach = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
                draw(layer.weight, (layer.in_channels * layer.kernel_size[0] / reach) ** -0.5)
            elif isinstance(layer, nn.LSTM):
                for name, parameter in layer.named_parameters():
                    if "weight" in name:
                        draw(parameter, layer.hidden_size**-0.5)
        for name, parameter in net.named_parameters():
            if "bias" in name:
                parameter.zero_()
        for k, quantizer in enumerate(net.quantizer.vq.layers):
            codebook: Any = quantizer._codebook
            draw(codebook.embed, 1.0)
            norm = _CODEWORD_NORM * _CODEWORD_NORM_RATIO**k
            codebook.embed.mul_(norm / codebook.embed.norm(dim=1, keepdim=True))
            codebook.inited.fill_(1)


def _state_sha256(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
