"""Codecs of two sizes: the small one that ships, and one of the official model's shape with seeded weights."""

import pytest

from whisper_gpt.pipeline.codec.architecture import CodecArchitecture
from whisper_gpt.pipeline.codec.causal import Codec, untrained_codec


@pytest.fixture(scope="session")
def official_shape() -> Codec:
    """The official model's architecture, its first 8 codebooks, untrained weights under which codes vary."""
    return untrained_codec(CodecArchitecture(), codebooks=8)


@pytest.fixture(params=["small", "official shape"])
def any_codec(request: pytest.FixtureRequest, codec: Codec, official_shape: Codec) -> Codec:
    """Each of the two in turn."""
    return codec if request.param == "small" else official_shape
