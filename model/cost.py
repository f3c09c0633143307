"""What a model costs: floating-point operations a token, and the peaks of known devices."""

from whisper_gpt.model.config import ModelConfig

# Dense matrix products in bfloat16 a second, from NVIDIA's data sheets (without sparsity).
# The first name that the driver's contains counts: the SXM modules are called by the plain names.
PEAK_FLOPS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
}


def training_flops(config: ModelConfig, parameters: int) -> float:
    """Operations to train on one token: 6 a matrix weight, and 12 a layer, channel and visible position.

    Chowdhery et al. 2022 (PaLM), appendix B, for the decoder and the mel branch; of the `parameters`, embeddings are
    looked up, not multiplied.
    """
    embeddings = (config.input_codebooks * config.vocab + 1) * config.token_width if config.input_codebooks else 0
    attention = (
        12 * config.context * (config.layers * config.width + config.hybrid * config.mel_layers * config.mel_width)
    )
    return 6.0 * (parameters - embeddings) + attention


def peak_flops(device_name: str) -> float | None:
    """The peak of a GPU by the name that its driver gives, or None where it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)
