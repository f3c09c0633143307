"""Full float32 arithmetic, whatever the process has enabled: a dataset's codes and mel must not depend on it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Run matrix products, convolutions and LSTMs (cuBLAS, cuDNN, oneDNN) without TF32, bfloat16 or autocast.

    These round products to 7 to 10 bits, and so would change codes under an unchanged fingerprint. Afterwards the
    user's settings are restored: `fp32_precision`, `set_float32_matmul_precision`, `allow_tf32`.
    """
    cudnn: Any = torch.backends.cudnn  # its type stubs lack conv and rnn
    mkldnn: Any = torch.backends.mkldnn
    operations = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    before = [operation.fp32_precision for operation in operations]
    for operation in operations:
        operation.fp32_precision = "ieee"
    # torch also has an older setting, and refuses to multiply (or to read the setting) while the two disagree.
    older = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        torch.set_float32_matmul_precision(older)
        for operation, precision in zip(operations, before, strict=True):
            operation.fp32_precision = precision
