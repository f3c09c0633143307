"""Audio in, aligned mel frames and codec tokens out: shards written, shards streamed."""
