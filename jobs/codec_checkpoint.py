"""A codec training run's one checkpoint, `RUN/checkpoint.safetensors`: replaced as a whole, or not at all."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from jobs.errors import JobError
from pipeline.codec.architecture import CodecArchitecture, codebooks
from pipeline.codec.encodec_import import EncodecModel
from pipeline.codec.training.quantizer import QuantizerTrainer
from pipeline.publish import publish_bytes

FILE_NAME = "checkpoint.safetensors"
_STATE = "whisper_gpt_codec_training"
_RANDOM = "random"


@dataclass(frozen=True)
class CodecProgress:
    """Where a run stands, and what decides what comes next."""

    architecture: CodecArchitecture
    seed: int
    step: int
    elapsed_s: float


def save_checkpoint(
    run: Path, net: EncodecModel, quantizer: QuantizerTrainer, optimizer: torch.optim.Optimizer, progress: CodecProgress
) -> None:
    """Publish the run's checkpoint: networks, codebooks and their averages, the optimizer's moments, random state."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(net, quantizer).items()}
    for name, parameter in net.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value.cpu().contiguous()
    tensors[_RANDOM] = torch.get_rng_state()
    publish_bytes(run / FILE_NAME, save(tensors, metadata={_STATE: json.dumps(asdict(progress))}))


def read_progress(run: Path) -> CodecProgress:
    """Where the run stands. Raises `JobError` where there is no whole checkpoint."""
    path = run / FILE_NAME
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_STATE])
        return CodecProgress(architecture=CodecArchitecture(**content.pop("architecture")), **content)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise JobError(f"{path}: no checkpoint of train-codec ({error})") from error


def restore(run: Path, net: EncodecModel, quantizer: QuantizerTrainer, optimizer: torch.optim.Optimizer) -> None:
    """Put the run's checkpoint into a network of its architecture, its quantizer and its optimizer."""
    with safe_open(run / FILE_NAME, framework="pt") as file, torch.no_grad():
        for name, tensor in _tensors(net, quantizer).items():
            tensor.copy_(file.get_tensor(name))
        moments: dict[str, dict[str, torch.Tensor]] = {}
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            if name.startswith("optimizer/"):
                parameter, _, key = name.removeprefix("optimizer/").rpartition("/")
                moments.setdefault(parameter, {})[key] = file.get_tensor(name)
        parameters = dict(net.named_parameters())
        for name, own in moments.items():
            device = parameters[name].device
            optimizer.state[parameters[name]] = {
                key: value if key == "step" else value.to(device) for key, value in own.items()
            }
        torch.set_rng_state(file.get_tensor(_RANDOM))


def _tensors(net: EncodecModel, quantizer: QuantizerTrainer) -> dict[str, torch.Tensor]:
    named = {f"net/{name}": parameter.data for name, parameter in net.named_parameters()}
    named |= {f"codebooks/{k}": codebook for k, codebook in enumerate(codebooks(net))}
    return named | {f"quantizer/{name}": buffer for name, buffer in quantizer.named_buffers()}
