"""Model configuration as one flat, frozen dataclass, and the presets."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from whisper_gpt.model.errors import ModelError

# How the codes of a frame are predicted: by a depth decoder, or spread over the positions of a token-only decoder.
Pattern = Literal["depth", "flat", "delay"]


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines the architecture. With `mel_bands` 0 the model is token-only: no mel branch or head."""

    name: str
    vocab: int = 1024  # codebook size
    context: int = 512  # frames per window
    width: int = 256
    layers: int = 4
    heads: int = 4
    input_codebooks: int = 1  # how many the model reads per frame, coarsest first
    output_codebooks: int = 1  # how many it predicts per frame; all but the coarsest by the depth decoder
    pattern: Pattern = "depth"
    depth_width: int = 128
    depth_layers: int = 2
    depth_heads: int = 2
    depth_frames: float = 0.25  # share of a batch's frames that the depth decoder is trained on
    finer_loss_weight: float = 1.0  # of the mean NLL of the finer codebooks
    mel_bands: int = 0
    mel_width: int = 96
    mel_layers: int = 2
    mel_heads: int = 3
    mel_kernel: int = 3  # receptive field of the encoder's stem, in frames
    fusion_width: int = 0  # width of the token vector and of the mel vector when concatenated; 0: width and mel_width
    mel_dropout: float = 0.1  # share of training windows without any mel
    mel_noise: float = 0.3  # largest standard deviation of the noise on training mel, in those of the mel
    mel_loss_weight: float = 0.1

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads) or (self.mel_bands and self.mel_width % (2 * self.mel_heads)):
            raise ModelError(f"{self.name}: a width must be an even multiple of its number of heads")
        if self.output_codebooks < 1 or self.depth_width % (2 * self.depth_heads) or not 0 < self.depth_frames <= 1:
            raise ModelError(f"{self.name}: its output codebooks or the sizes of its depth decoder are out of range")
        all_read = self.input_codebooks == self.output_codebooks > 1
        if self.pattern not in get_args(Pattern) or (self.pattern != "depth" and (self.hybrid or not all_read)):
            raise ModelError(
                f"{self.name}: pattern {self.pattern}; it is one of {', '.join(get_args(Pattern))}, and all but depth "
                "need a token-only model that reads every codebook that it predicts"
            )
        if self.input_codebooks < (0 if self.hybrid else 1):
            raise ModelError(f"{self.name}: no input: {self.input_codebooks} codebooks and no mel")

    @property
    def token_width(self) -> int:
        """Width of the token embeddings."""
        return self.fusion_width if self.hybrid and self.fusion_width else self.width

    @property
    def hybrid(self) -> bool:
        """Whether the model has a mel branch in addition to the tokens."""
        return self.mel_bands > 0


PRESETS = {
    "hybrid-4m": ModelConfig("hybrid-4m", mel_bands=64),
    "hybrid-paper": ModelConfig("hybrid-paper", mel_bands=64, fusion_width=32),
    "gpt-4m": ModelConfig("gpt-4m"),
    "gpt-40m": ModelConfig("gpt-40m", width=512, layers=12, heads=8),
    "hybrid-1m": ModelConfig("hybrid-1m", width=128, heads=2, mel_bands=64, mel_width=48),
    "gpt-1m": ModelConfig("gpt-1m", width=128, heads=2),
    "hybrid-12m": ModelConfig("hybrid-12m", width=384, layers=6, heads=6, mel_bands=64, mel_width=144),
    "gpt-12m": ModelConfig("gpt-12m", width=384, layers=6, heads=6),
    "hybrid-40m": ModelConfig("hybrid-40m", width=512, layers=12, heads=8, mel_bands=64, mel_width=192),
    "hybrid-8m": ModelConfig("hybrid-8m", mel_bands=64, input_codebooks=8, output_codebooks=8),
    "gpt-8m": ModelConfig("gpt-8m", input_codebooks=8, output_codebooks=8),
    "flat-8m": ModelConfig("flat-8m", layers=5, input_codebooks=8, output_codebooks=8, pattern="flat"),
    "delay-8m": ModelConfig("delay-8m", layers=5, input_codebooks=8, output_codebooks=8, pattern="delay"),
}


def fit_to_data(config: ModelConfig, *, vocab: int, context: int, mel_bands: int) -> ModelConfig:
    """Return `config` with a codec's codebook size, a context and the dataset's mel bands."""
    bands = mel_bands if config.hybrid else 0
    if not config.input_codebooks:
        config = replace(config, mel_dropout=0.0)  # mel dropout would leave a mel-only model without any input
    return replace(config, vocab=vocab, context=context, mel_bands=bands)
