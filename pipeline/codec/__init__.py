"""EnCodec, exactly causal and streaming: architecture, weights, encoding, decoding, training."""
