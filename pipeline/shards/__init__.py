"""From planned sources to shards: the plan, one sample, one tar, and making a whole shard."""
