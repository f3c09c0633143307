"""The checkpoint of a codec training run, `RUN/checkpoint.safetensors`, which is replaced atomically."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, codebooks
from whisper_gpt.pipeline.codec.training.step import Training

FILE_NAME = "checkpoint.safetensors"
_STATE = "whisper_gpt_codec_training"
_RANDOM = "random"


@dataclass(frozen=True)
class CodecProgress:
    """Progress of a run, and the settings that must not change on resume."""

    architecture: CodecArchitecture
    seed: int
    step: int
    elapsed_s: float


def save_checkpoint(run: Path, training: Training, progress: CodecProgress) -> None:
    """Publish the run's checkpoint: networks, codebooks, averages, optimizer moments, random state."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(training).items()}
    for name, (parameter, optimizer) in _parameters(training).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value.cpu().contiguous()
    tensors[_RANDOM] = torch.get_rng_state()
    publish_bytes(run / FILE_NAME, save(tensors, metadata={_STATE: json.dumps(asdict(progress))}))


def read_progress(run: Path) -> CodecProgress:
    """Read the run's progress. Raises `JobError` if there is no valid checkpoint."""
    path = run / FILE_NAME
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_STATE])
        return CodecProgress(architecture=CodecArchitecture(**content.pop("architecture")), **content)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise JobError(f"{path}: not a checkpoint of train-codec ({error})") from error


def restore(run: Path, training: Training) -> None:
    """Load the run's checkpoint into `training`. Raises `JobError` if their tensors differ, as with --adversarial."""
    with safe_open(run / FILE_NAME, framework="pt") as file, torch.no_grad():
        stored = set(file.keys())
        wanted = _tensors(training)
        if wanted.keys() != {name for name in stored if not name.startswith("optimizer/") and name != _RANDOM}:
            raise JobError(f"{run / FILE_NAME}: saved with another --adversarial; pass the run's original options")
        for name, tensor in wanted.items():
            tensor.copy_(file.get_tensor(name))
        for name, (parameter, optimizer) in _parameters(training).items():
            keys = {key: f"optimizer/{name}/{key}" for key in ("step", "exp_avg", "exp_avg_sq")}
            if keys["step"] in stored:
                moments = {key: file.get_tensor(stored_key) for key, stored_key in keys.items()}
                optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()
                }
        torch.set_rng_state(file.get_tensor(_RANDOM))


def _parameters(training: Training) -> dict[str, tuple[nn.Parameter, torch.optim.Optimizer]]:
    """Every trained parameter by name, with its optimizer."""
    named = {f"net/{name}": (parameter, training.optimizer) for name, parameter in training.net.named_parameters()}
    if training.critic is not None:
        critic = training.critic
        named |= {
            f"critic/{name}": (parameter, critic.optimizer) for name, parameter in critic.judge.named_parameters()
        }
    return named


def _tensors(training: Training) -> dict[str, torch.Tensor]:
    named = {name: parameter.detach() for name, (parameter, _) in _parameters(training).items()}
    named |= {f"codebooks/{k}": codebook for k, codebook in enumerate(codebooks(training.net))}
    named |= {f"average/{name}": tensor for name, tensor in training.average.items()}
    return named | {f"quantizer/{name}": buffer for name, buffer in training.quantizer.named_buffers()}
