"""The hybrid audio language model and its baselines, in plain PyTorch."""
