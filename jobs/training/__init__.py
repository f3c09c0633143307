"""Training: options, ranks, optimizers, one step, the loop, checkpoints, logging."""
