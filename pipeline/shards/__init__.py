"""From planned sources to shards: the plan, samples, tars, and making a whole shard."""
