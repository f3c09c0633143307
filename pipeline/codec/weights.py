"""Codec weights on disk: our own safetensors files, which say what they hold, and the official model's two layouts."""

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
    """A network with its weights, what it is called, and the sha256 of the tensors as the file held them.

    (Of the tensors, not of the file: the official weights are the same ones in either of their two layouts.)
    """

    name: str
    sha256: str
    net: EncodecModel


def codec_tensors(net: EncodecModel) -> dict[str, torch.Tensor]:
    """Everything that decides what a codec does, by name: the networks' parameters and the codebooks."""
    tensors = {name: parameter.detach() for name, parameter in net.named_parameters()}
    return tensors | {f"quantizer.codebook.{k}": codebook for k, codebook in enumerate(codebooks(net))}


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """The hash of names, types and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, name: str, net: EncodecModel, about: str = "") -> None:
    """Publish `net` as float16 safetensors with its architecture, name and a sentence about its origin and licence."""
    tensors = {key: value.half().cpu().contiguous() for key, value in codec_tensors(net).items()}
    content = {"name": name, "architecture": asdict(architecture_of(net)), "about": about}
    publish_bytes(path, save(tensors, metadata={_ABOUT: json.dumps(content, sort_keys=True)}))


def read_weights(path: Path) -> CodecWeights:
    """The codec that a file holds: one of ours, or the official one as `.th` or in Hugging Face's safetensors.

    Raises `PipelineError` for a file that is missing, damaged, or of another model. Nothing is ever unpickled but
    tensors, and an official `.th` only if its sha256 is the official one.
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
        raise PipelineError(f"codec weights {path}: damaged, or no safetensors file ({error})") from error
    if about is None:
        return _official(_from_hugging_face(tensors), path)
    try:
        content = json.loads(about)
        name, architecture = content["name"], CodecArchitecture(**content["architecture"])
    except (ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"codec weights {path}: its metadata do not describe a codec ({error})") from error
    net = _network(architecture, tensors, path)
    return CodecWeights(name, tensors_sha256(tensors), net)


def _network(architecture: CodecArchitecture, tensors: Mapping[str, torch.Tensor], path: Path) -> EncodecModel:
    """The network of `architecture` with the values of `tensors`, which must be exactly its own."""
    net = build_network(architecture)
    own = codec_tensors(net)
    odd = sorted(own.keys() ^ tensors.keys())
    odd += [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if odd:
        raise PipelineError(
            f"codec weights {path}: not the weights of a codec, {odd[0]} is missing, odd or misshapen; of a run of "
            "train-codec pass codec.safetensors"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return net.eval().requires_grad_(False)


def _official(tensors: dict[str, torch.Tensor], path: Path) -> CodecWeights:
    """The official model of tensors under the `encodec` package's names."""
    tensors = {
        re.sub(r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed$", r"quantizer.codebook.\1", name): tensor
        for name, tensor in tensors.items()
        if not name.endswith(("cluster_size", "embed_avg", "inited"))  # of training only
    }
    net = _network(CodecArchitecture(), _without_weight_norm(tensors), path)
    return CodecWeights(OFFICIAL_NAME, tensors_sha256(tensors), net)


def _official_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(OFFICIAL_SHA256_PREFIX):
        raise PipelineError(
            f"codec weights {path}: sha256 {digest[:8]}… is not the official {OFFICIAL_SHA256_PREFIX}…; the file is "
            f"damaged or another one, fetch {OFFICIAL_FILE} again"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise PipelineError(f"codec weights {path}: not a checkpoint of tensors ({type(error).__name__})") from error


def _from_hugging_face(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of `facebook/encodec_24khz` under the names of the `encodec` package."""

    def name(theirs: str) -> str:
        theirs = theirs.replace("parametrizations.weight.original0", "weight_g")
        theirs = theirs.replace("parametrizations.weight.original1", "weight_v")
        theirs = re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", theirs)
        theirs = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", theirs)
        # Upsampling layers sit at these places in the decoder; every other convolution is a plain one.
        transposed = re.match(r"decoder\.model\.(3|6|9|12)\.conv\.", theirs)
        return re.sub(r"\.conv\.(?=[^.]+$)", ".convtr.convtr." if transposed else ".conv.conv.", theirs)

    return {name(theirs): tensor for theirs, tensor in tensors.items()}


def _without_weight_norm(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each weight norm (Salimans and Kingma 2016) multiplied out: w = g · v / |v|, over all axes but the first."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith(("weight_g", "weight_v"))}
    for name, direction in tensors.items():
        if name.endswith("weight_v"):
            length = tensors.get(name[:-1] + "g", torch.ones(()))
            norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.dim() - 1))
            plain[name.removesuffix("_v")] = direction * (length / norm)
    return plain
