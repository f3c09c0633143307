"""Codec weights on disk: safetensors files of `train-codec`, and the official model in both of its layouts."""

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, architecture_of, build_network, codebooks
from whisper_gpt.pipeline.codec.encodec_import import EncodecModel
from whisper_gpt.pipeline.codec.files import OFFICIAL_FILE, OFFICIAL_NAME, OFFICIAL_SHA256_PREFIX
from whisper_gpt.pipeline.errors import PipelineError

_ABOUT = "whisper_gpt_codec"


@dataclass(frozen=True)
class CodecWeights:
    """A network with its weights, its name, and the sha256 of the tensors as stored in the file.

    Of the tensors, not of the file, because the official weights are equal in both of their layouts.
    """

    name: str
    sha256: str
    net: EncodecModel


def codec_tensors(net: EncodecModel) -> dict[str, torch.Tensor]:
    """Return all tensors that define a codec, by name: the network's parameters and the codebooks."""
    tensors = {name: parameter.detach() for name, parameter in net.named_parameters()}
    return tensors | {f"quantizer.codebook.{k}": codebook for k, codebook in enumerate(codebooks(net))}


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, name: str, net: EncodecModel, about: str = "") -> None:
    """Write `net` as float16 safetensors with its architecture, name and a sentence about its origin and licence."""
    tensors = {key: value.half().cpu().contiguous() for key, value in codec_tensors(net).items()}
    content = {"name": name, "architecture": asdict(architecture_of(net)), "about": about}
    publish_bytes(path, save(tensors, metadata={_ABOUT: json.dumps(content, sort_keys=True)}))


def read_weights(path: Path) -> CodecWeights:
    """Read a codec from a file of `train-codec`, or the official one from its `.th` or Hugging Face's safetensors.

    Raises `PipelineError` if the file is missing, damaged, or of another model. Only tensors are ever unpickled, and
    only from an official `.th` with the official sha256.
    """
    if not path.is_file():
        raise PipelineError(f"codec weights {path}: no such file")
    if path.suffix != ".safetensors":
        return _official(_official_checkpoint(path), path)
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(_ABOUT)
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise PipelineError(f"codec weights {path}: damaged, or not a safetensors file ({error})") from error
    if about is None:
        return _official(_from_hugging_face(tensors), path)
    try:
        content = json.loads(about)
        name, architecture = content["name"], CodecArchitecture(**content["architecture"])
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"codec weights {path}: its metadata does not describe a codec ({error})") from error
    net = _network(architecture, tensors, path)
    return CodecWeights(name, tensors_sha256(tensors), net)


def _network(architecture: CodecArchitecture, tensors: Mapping[str, torch.Tensor], path: Path) -> EncodecModel:
    """Build the network of `architecture` with the values of `tensors`, whose names and shapes must match exactly."""
    net = build_network(architecture)
    expected = codec_tensors(net)
    mismatched = sorted(expected.keys() ^ tensors.keys())
    mismatched += [name for name in expected.keys() & tensors.keys() if expected[name].shape != tensors[name].shape]
    if mismatched:
        raise PipelineError(
            f"codec weights {path}: not the weights of a codec: {mismatched[0]} is missing, unexpected or of another "
            "shape; from a run of train-codec, pass codec.safetensors"
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])
    return net.eval().requires_grad_(False)


def _official(tensors: dict[str, torch.Tensor], path: Path) -> CodecWeights:
    """Build the official model from tensors with the `encodec` package's names."""
    tensors = {
        re.sub(r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed$", r"quantizer.codebook.\1", name): tensor
        for name, tensor in tensors.items()
        if not name.endswith(("cluster_size", "embed_avg", "inited"))  # used only in training
    }
    net = _network(CodecArchitecture(), _without_weight_norm(tensors), path)
    return CodecWeights(OFFICIAL_NAME, tensors_sha256(tensors), net)


def _official_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(OFFICIAL_SHA256_PREFIX):
        raise PipelineError(
            f"codec weights {path}: sha256 {digest[:8]}… is not the official {OFFICIAL_SHA256_PREFIX}…; the file is "
            f"damaged or a different one; download {OFFICIAL_FILE} again"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise PipelineError(f"codec weights {path}: not a checkpoint of tensors ({type(error).__name__})") from error


def _from_hugging_face(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of `facebook/encodec_24khz` as in the `encodec` package."""

    def renamed(name: str) -> str:
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        name = re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name)
        name = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
        # These layers of the decoder are transposed convolutions; all others are plain ones.
        transposed = re.match(r"decoder\.model\.(3|6|9|12)\.conv\.", name)
        return re.sub(r"\.conv\.(?=[^.]+$)", ".convtr.convtr." if transposed else ".conv.conv.", name)

    return {renamed(name): tensor for name, tensor in tensors.items()}


def _without_weight_norm(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Replace weight norms (Salimans and Kingma 2016) by w = g · v / |v|, the norm over all axes but the first."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(("weight_g", "weight_v"))}
    for name, direction in tensors.items():
        if name.endswith("weight_v"):
            length = tensors.get(name[:-1] + "g", torch.ones(()))
            norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.dim() - 1))
            plain[name.removesuffix("_v")] = direction * (length / norm)
    return plain
