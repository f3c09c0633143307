"""Codecs of two sizes: the small one that ships, and one of the official model's shape with seeded weights."""

import pytest

from pipeline.codec.architecture import CodecArchitecture, build_network, seed_weights
from pipeline.codec.causal import Codec


@pytest.fixture(scope="session")
def official_shape() -> Codec:
    """The official model's architecture, its first 8 codebooks, untrained weights under which codes vary."""
    net = build_network(CodecArchitecture())
    seed_weights(net, seed=0)
    return Codec("official-shape", "", 8, net.eval().requires_grad_(False))


@pytest.fixture(params=["small", "official shape"])
def any_codec(request: pytest.FixtureRequest, codec: Codec, official_shape: Codec) -> Codec:
    """Each of the two in turn."""
    return codec if request.param == "small" else official_shape
