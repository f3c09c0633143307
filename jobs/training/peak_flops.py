"""Speed of a large matrix product on this machine: the peak that MFU on a CPU refers to."""

import time

import torch

_ROUNDS = 5


def matrix_flops(size: int = 2048) -> float:
    """Return the floating-point operations per second of a product of float32 matrices `[size, size]`, the best of 5.

    A size of 1024 comes within a few percent, in an eighth of the time.
    """
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(_ROUNDS + 1):  # the first one warms up
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])
