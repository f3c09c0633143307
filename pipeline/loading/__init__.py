"""From shards to batches: the order of windows, reading, batching, the stream."""
