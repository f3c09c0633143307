"""The cost of a model: floating-point operations per token, and the peak rates of known devices."""

from whisper_gpt.model.config import ModelConfig

# Dense bfloat16 FLOP/s (without sparsity), from NVIDIA's data sheets.
# The first entry contained in the driver's device name counts: the plain names are the SXM modules.
PEAK_FLOPS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
}


def training_flops(config: ModelConfig, parameters: int) -> float:
    """Return the operations to train on one token: 6 per matrix weight, 12 per layer, channel and context position.

    Chowdhery et al. 2022 (PaLM), appendix B, for the decoder and the mel branch. Embeddings are subtracted from
    `parameters`, because they are looked up, not multiplied. The depth decoder's blocks work on K − 1 tokens of the
    share of frames that it is trained on, its projections once per such frame.
    """
    if config.pattern != "depth":
        return _pattern_flops(config, parameters)
    finer, width = config.output_codebooks - 1, config.depth_width
    projections, tables = finer * width * (config.width + config.vocab), finer * width * config.vocab
    blocks = config.depth_layers * 12 * width**2 if finer else 0
    depth = 6.0 * config.depth_frames * (projections + finer * blocks)
    parameters -= projections + tables + blocks
    embeddings = (config.input_codebooks * config.vocab + 1) * config.token_width if config.input_codebooks else 0
    attention = (
        12 * config.context * (config.layers * config.width + config.hybrid * config.mel_layers * config.mel_width)
    )
    return 6.0 * (parameters - embeddings) + attention + depth


def _pattern_flops(config: ModelConfig, parameters: int) -> float:
    """A frame of the flat pattern is K positions of the decoder, one of the delay pattern is one; K heads in both."""
    positions = config.output_codebooks if config.pattern == "flat" else 1
    heads = config.output_codebooks * config.vocab * config.width
    blocks = parameters - 2 * heads - config.width  # without the heads, the embeddings and the begin token
    attention = 12 * config.context * positions * config.layers * config.width
    return 6.0 * (positions * blocks + heads) + positions * attention


def peak_flops(device_name: str) -> float | None:
    """Return a GPU's peak FLOP/s by the name that its driver reports, or None if it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)
