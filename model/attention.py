"""Causal attention that stays within the pieces of packed windows: dense on a CPU, block-sparse on a GPU."""

from typing import Any

import torch
import torch.nn.functional as F

from whisper_gpt.model.compilation import compiled_if

_LEAST_HEAD_WIDTH = 16  # of flex attention's kernels


class DocumentMask:
    """The mask of packed windows whose frames belong to the pieces `doc_ids` int64 `[B, T]`, for all layers of a model.

    Each of its two forms is made when it is first needed.
    """

    def __init__(self, doc_ids: torch.Tensor):
        self.doc_ids = doc_ids
        self._dense: torch.Tensor | None = None
        self._blocks: Any = None

    @property
    def dense(self) -> torch.Tensor:
        """Bool `[B, 1, T, T]`: True where a query (row) attends to a key."""
        if self._dense is None:
            same = self.doc_ids[:, :, None] == self.doc_ids[:, None, :]
            self._dense = torch.tril(same)[:, None]
        return self._dense

    @property
    def blocks(self) -> Any:
        """The same as flex attention's BlockMask, which skips blocks of pairs that do not attend to each other."""
        if self._blocks is None:
            from torch.nn.attention.flex_attention import create_block_mask  # imports torch's compiler: takes seconds

            doc_ids = self.doc_ids
            windows, frames = doc_ids.shape

            def attends(window: Any, head: Any, query: Any, key: Any) -> Any:
                return (query >= key) & (doc_ids[window, query] == doc_ids[window, key])

            self._blocks = create_block_mask(attends, windows, None, frames, frames, device=str(doc_ids.device))
        return self._blocks


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: DocumentMask | None) -> torch.Tensor:
    """Return causal attention of `q` to `k` and `v`, all `[B, H, T, hd]`, or of one query to a cache of keys.

    torch's attention rules out its fast kernels if it is given a mask; so on a GPU a document mask goes to flex
    attention (Dong et al. 2024).
    """
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)
    if q.is_cuda and q.shape[3] >= _LEAST_HEAD_WIDTH:
        return flex(q, k, v, mask, compiled=not torch.compiler.is_compiling())
    return F.scaled_dot_product_attention(q, k, v, mask.dense)


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: DocumentMask, compiled: bool) -> torch.Tensor:
    """Attend by flex attention; not `compiled` it computes every pair, which is for tests and for compiled callers."""
    from torch.nn.attention.flex_attention import flex_attention

    return compiled_if(compiled, flex_attention)(q, k, v, block_mask=mask.blocks)
