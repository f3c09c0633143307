"""From shards to batches: the order of windows, reading, caching, batching, the stream."""
