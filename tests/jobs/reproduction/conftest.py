"""Synthetic results: rows of one domain that share recordings, each by a different speaker."""

from collections.abc import Callable

import numpy as np
import pytest

from whisper_gpt.jobs.reproduction.results import RowResult

MakeRow = Callable[..., RowResult]


def make_row(
    row: str = "gpt-4m", nll: float = 2.0, recordings: int = 40, seeds: int = 2, spread: float = 0.02, **fields
) -> RowResult:
    """Make a row with an NLL near `nll` on recordings equally hard for all rows; `spread` is the row's own noise."""
    shared_rng, row_rng = np.random.default_rng(0), np.random.default_rng([len(row), *row.encode()])
    tokens = np.maximum(1, shared_rng.lognormal(5, 0.8, recordings)).astype(np.int64)
    rates = nll + shared_rng.normal(0, 0.3, recordings) + row_rng.normal(0, spread, (seeds, recordings))
    positions = np.arange(1, 65)
    defaults = {
        "row": row,
        "tag": "a",
        "description": "token-only",
        "parameters": 3_670_000,
        "flops_per_token": 2.2e7,
        "learning_rate": 0.001,
        "tokens_trained": 50_000_000,
        "wall_s": 300.0,
        "seeds": tuple(range(seeds)),
        "groups": tuple(f"speaker-{i}" for i in range(recordings)),
        "recordings": recordings,
        "tokens": tokens,
        "nats": rates * tokens,
        "correct": np.round(0.35 * tokens).astype(np.int64) * np.ones((seeds, 1), np.int64),
        "position_nats": (nll + 1 / positions) * 100,
        "position_tokens": np.full(64, 100),
        "codebook_nll": (nll,),
        "curves": tuple(tuple((t, nll + 3 / (1 + t) + seed / 10) for t in range(0, 50, 5)) for seed in range(seeds)),
    }
    return RowResult(**{**defaults, **fields})


@pytest.fixture(scope="session")
def result_row() -> MakeRow:
    """The function `make_row`."""
    return make_row


@pytest.fixture(scope="session")
def all_rows() -> list[RowResult]:
    """Every row of the table, with clearly different NLLs."""
    baseline = {"tag": "baseline", "learning_rate": None, "flops_per_token": 0.0, "curves": ((),)}
    return [
        make_row("gpt-4m", 2.00),
        make_row("gpt-40m", 1.95),
        make_row("gpt-4m-all-codes", 1.90, tag="b", description="all 8 codebooks summed"),
        make_row("hybrid-4m", 1.80, tag="c", description="real causal mel"),
        make_row("hybrid-4m-codes-1", 2.00, tag="d"),
        make_row("hybrid-4m-codes-2", 1.97, tag="d"),
        make_row("hybrid-4m-codes-8", 1.92, tag="d"),
        make_row("hybrid-4m-centred", 1.20, tag="e", description="centred mel"),
        make_row("mel-alone", 2.30, tag="f", description="mel | no tokens"),
        make_row("unigram", 4.5, seeds=1, **baseline),
        make_row("bigram", 3.5, seeds=1, **baseline),
        make_row("5-gram", 3.0, seeds=1, **baseline),
    ]
