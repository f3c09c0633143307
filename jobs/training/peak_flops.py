"""Speed of a large matrix product on this machine: the peak that MFU on a CPU refers to."""

import time

import torch

_SIZE = 2048


def matrix_flops(rounds: int = 5) -> float:
    """Return the floating-point operations per second of a square float32 matrix product, the best of `rounds`."""
    a, b = torch.randn(_SIZE, _SIZE), torch.randn(_SIZE, _SIZE)
    seconds = []
    for _ in range(rounds + 1):  # the first one warms up
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * _SIZE**3 / min(seconds[1:])
