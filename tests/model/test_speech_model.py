"""The speech model in the package: small, complete, and made with the codec in the package."""

from whisper_gpt.jobs.inference.run_folder import load_frame_model
from whisper_gpt.model.checkpoint import SPEECH_MODEL
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint


def test_speech_model_is_small_and_predicts_all_codes_of_the_codec_in_the_package(codec: Codec) -> None:
    assert sum(path.stat().st_size for path in SPEECH_MODEL.iterdir()) < 20e6
    model, state = load_frame_model(SPEECH_MODEL)
    assert CodecFingerprint(**state.data.codec) == codec.fingerprint
    assert model.config.output_codebooks == model.config.input_codebooks == codec.codebooks == 8
    assert state.data.mel_variant == "codes-8"
    assert {parameter.dtype.itemsize for parameter in model.parameters()} == {4}  # stored in half precision
