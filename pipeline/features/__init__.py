"""Features: causal log-mel frames, mel variants, and the codec tokens of the same frames."""
