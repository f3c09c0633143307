"""A model on disk: weights as safetensors, its configuration as JSON beside them. Nothing is unpickled."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model.config import ModelConfig
from model.errors import ModelError
from model.hybrid import HybridLM

CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"


def save_model(model: HybridLM, folder: Path) -> None:
    """Write `model.json` and `model.safetensors` into the existing `folder`."""
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(model.config), indent=1) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS_FILE)


def load_model(folder: Path, device: torch.device | str = "cpu") -> HybridLM:
    """The model that `save_model` wrote. Raises `ModelError` for a missing, damaged or mismatched file."""
    path = folder / CONFIG_FILE
    try:
        config = ModelConfig(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: not a model configuration ({error})") from error
    model = HybridLM(config).to(device)
    load_tensors(model, load_safetensors(folder / WEIGHTS_FILE, device), folder / WEIGHTS_FILE)
    return model


def load_tensors(model: HybridLM, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Put `tensors` (read from `path`) into `model`. Raises `ModelError` naming the first that does not fit."""
    own = model.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        here = tuple(own[name].shape) if name in own else "absent"
        there = tuple(tensors[name].shape) if name in tensors else "absent"
        if here != there:
            raise ModelError(f"{path}: {name} is {there}, but a {model.config.name} of this configuration has {here}")
    model.load_state_dict(tensors)


def load_safetensors(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """The tensors in `path`. Raises `ModelError` where it is missing or damaged."""
    try:
        return load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error
