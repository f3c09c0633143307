"""Build or load a model of any pattern: `HybridLM`, or `PatternLM` for the flat and the delay pattern."""

from pathlib import Path

from whisper_gpt.model.checkpoint import read_config
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.patterns import PatternLM

LanguageModel = HybridLM | PatternLM


def build_model(config: ModelConfig) -> LanguageModel:
    """Return a new model with random weights."""
    return _class_of(config)(config)


def load_model(folder: Path) -> LanguageModel:
    """Load a model on the CPU, in evaluation mode. Raises `ModelError` if a file is missing, damaged or no match."""
    return _class_of(read_config(folder)).from_pretrained(folder)


def _class_of(config: ModelConfig) -> type[HybridLM] | type[PatternLM]:
    return HybridLM if config.pattern == "depth" else PatternLM
