"""Products in full float32, whatever the process allows: the codes and the mel of a dataset must not depend on it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 products, convolutions and LSTMs of cuBLAS, cuDNN and oneDNN without TF32, bfloat16 or autocast.

    These round products to 7 to 10 bits, and so change codes under an unchanged fingerprint. All that a user may have
    set is put back afterwards: `fp32_precision`, `set_float32_matmul_precision`, `allow_tf32`.
    """
    cudnn: Any = torch.backends.cudnn  # whose types know nothing of conv and rnn
    mkldnn: Any = torch.backends.mkldnn
    operations = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    before = [operation.fp32_precision for operation in operations]
    for operation in operations:
        operation.fp32_precision = "ieee"
    # torch keeps the older setting beside these, and refuses to multiply (or to read it) while the two disagree.
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
