"""Attention within the pieces of packed windows: the dense and the block-sparse form are the same."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import NEEDS_COMPILER
from whisper_gpt.model.attention import DocumentMask, attend, flex


def drawn(windows: int, frames: int, width: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, windows, 2, frames, width).unbind()
    return q, k, v


def pieces(lengths: list[int], frames: int) -> torch.Tensor:
    """The ids of pieces of these lengths, then of one that fills the window."""
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return F.pad(ids, (0, max(0, frames - len(ids))), value=len(lengths))[:frames]


@settings(max_examples=10)
@given(st.lists(st.lists(st.integers(1, 150), min_size=1, max_size=4), min_size=1, max_size=3), st.integers(2, 300))
def test_both_forms_agree(lengths: list[list[int]], frames: int) -> None:
    doc_ids = torch.stack([pieces(window, frames) for window in lengths])
    q, k, v = drawn(len(lengths), frames)
    mask = DocumentMask(doc_ids)
    dense, sparse = attend(q, k, v, mask), flex(q, k, v, mask, compiled=False)
    torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-5)


def test_a_piece_is_attended_to_as_if_it_were_alone() -> None:
    q, k, v = drawn(1, 200)
    packed = attend(q, k, v, DocumentMask(pieces([70, 130], 200)[None]))
    alone = attend(q[:, :, 70:], k[:, :, 70:], v[:, :, 70:], None)
    torch.testing.assert_close(packed[:, :, 70:], alone)


@pytest.mark.slow
@NEEDS_COMPILER
def test_the_sparse_form_can_be_compiled_with_its_caller() -> None:
    @torch.compile(fullgraph=False)
    def caller(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, doc_ids: torch.Tensor) -> torch.Tensor:
        return flex(q, k, v, DocumentMask(doc_ids), compiled=False)

    q, k, v = drawn(2, 256)
    doc_ids = torch.stack([pieces([100], 256), pieces([30, 50], 256)])
    with torch.no_grad():  # on a CPU flex attention has no backward
        torch.testing.assert_close(
            caller(q, k, v, doc_ids), attend(q, k, v, DocumentMask(doc_ids)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention has a backward on a GPU only")
def test_gradients_agree_on_a_gpu() -> None:
    doc_ids = torch.stack([pieces([100], 512), pieces([30, 300], 512)]).cuda()
    results = []
    for form in ("dense", "sparse"):
        q, k, v = (x.cuda().requires_grad_() for x in drawn(2, 512, 32))
        mask = DocumentMask(doc_ids)
        y = F.scaled_dot_product_attention(q, k, v, mask.dense) if form == "dense" else attend(q, k, v, mask)
        y.square().sum().backward()
        results.append([y.detach(), q.grad, k.grad, v.grad])
    for dense, sparse in zip(*results, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-2, atol=1e-2)
