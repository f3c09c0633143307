"""The driver of plan and preprocess: options, planning, the queue of shards, Ray workers."""
