"""What is computed from audio: causal log-mel frames, their variants, and codec tokens of the same frames."""
