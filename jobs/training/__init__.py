"""Training, piece by piece: options, ranks, optimizers, one step, the loop, checkpoints, what is shown meanwhile."""
