"""From audio to aligned mel frames and codec tokens: writing shards, and streaming batches from them."""
