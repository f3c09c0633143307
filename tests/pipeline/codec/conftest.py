"""Codecs of two sizes: the small one that ships, and one of the official architecture with seeded weights."""

import pytest

from whisper_gpt.pipeline.codec.architecture import CodecArchitecture
from whisper_gpt.pipeline.codec.causal import Codec, untrained_codec


@pytest.fixture(scope="session")
def official_shape() -> Codec:
    """An untrained codec of the official architecture with 8 codebooks, whose seeded weights give varied codes."""
    return untrained_codec(CodecArchitecture(), codebooks=8)


@pytest.fixture(params=["small", "official shape"])
def any_codec(request: pytest.FixtureRequest, codec: Codec, official_shape: Codec) -> Codec:
    """Each of the two codecs in turn."""
    return codec if request.param == "small" else official_shape
