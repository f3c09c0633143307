"""The speed of a large matrix product on this machine: what a model's speed is held against."""

import torch


def matrix_flops(rounds: int = 5) -> float:
    """Floating-point operations a second of a square float32 matrix product, the best of `rounds`, threads as set."""
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    timing = time_in_turn({"sgemm": lambda: a @ b}, rounds)["sgemm"]
    return 2 * size**3 / timing.least
