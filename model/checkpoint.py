"""Save and load models, on disk and on the Hugging Face hub: weights as safetensors, configuration as JSON.

Nothing is ever unpickled.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.errors import ModelError

CONFIG_FILE = constants.CONFIG_NAME  # config.json
WEIGHTS_FILE = constants.SAFETENSORS_SINGLE_FILE  # model.safetensors

# The speech model in the package, a checkpoint with its weights in half precision: docs/speech-model.md is its card.
SPEECH_MODEL = Path(__file__).with_name("speech_8m")


class Pretrained(nn.Module, PyTorchModelHubMixin, library_name="whisper-gpt", tags=["audio", "encodec"]):
    """A module that is built from a `ModelConfig`, with `save_pretrained`, `from_pretrained` and `push_to_hub`."""

    config: ModelConfig

    @property
    def device(self) -> torch.device:
        """The device that the parameters are on."""
        return next(self.parameters()).device

    def parameter_count(self) -> int:
        """Return the number of trained parameters."""
        return sum(p.numel() for p in self.parameters())

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **download: Any) -> Self:
        """Load a model from a folder or from the hub; return it on the CPU, in evaluation mode.

        From the hub, `download` may hold `revision`, `token`, `cache_dir`, `force_download` and `local_files_only`.
        Raises `ModelError` if a file is missing, damaged or does not match.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            try:
                files = [CONFIG_FILE, WEIGHTS_FILE]
                folder = Path(snapshot_download(str(folder), allow_patterns=files, **download))
            except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise ModelError(f"{folder}: neither a folder nor a model on the hub ({reason})") from error
        model = cls(read_config(folder))
        load_tensors(model, load_safetensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
        return model.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        save_model(self, save_directory)


def save_model(model: Any, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` into the existing `folder`.

    Raises `ModelError` if they cannot be written, for example because the disk is full.
    """
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    try:
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(model.config), indent=1) + "\n", encoding="utf-8")
        save_file(tensors, folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: the model cannot be written ({error})") from error


def read_config(folder: Path) -> ModelConfig:
    """Read the configuration that `save_model` wrote. Raises `ModelError` if it is missing or invalid."""
    path = folder / CONFIG_FILE
    try:
        return ModelConfig(**json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: not a model configuration ({error})") from error


def load_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load `tensors` (read from `path`) into `model`. Raises `ModelError` with the first one that does not fit."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        expected_shape = tuple(expected[name].shape) if name in expected else "absent"
        shape = tuple(tensors[name].shape) if name in tensors else "absent"
        if shape != expected_shape:
            raise ModelError(f"{path}: {name} is {shape}, but {expected_shape} in a model of this configuration")
    model.load_state_dict(tensors)


def load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in `path`. Raises `ModelError` if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
