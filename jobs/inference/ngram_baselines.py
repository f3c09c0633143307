"""N-gram baselines (1, 2, 5): counted on the training split, scored on the same windows as the neural models."""

from collections.abc import Iterator

from whisper_gpt.jobs.inference.scoring import WindowScore, ngram_scores, sequences
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import Location
from whisper_gpt.model.ngram import Counts, NGram, count, fit
from whisper_gpt.pipeline.loading.stream import whole_split

NGRAM_ORDERS = {"unigram": 1, "bigram": 2, "5-gram": 5}

COUNTING_BYTES_PER_TOKEN = 100
_BATCH = 16


def count_training(dataset: Location, context: int) -> Counts:
    """Count the n-grams of the training split, up to the highest order; takes about 100 bytes per token."""
    vocab = read_info(dataset).codec["codebook_size"]
    windows = whole_split(dataset, "train", context, _BATCH)
    return count((tokens for _, tokens in sequences(windows)), vocab, max(NGRAM_ORDERS.values()))


def score_ngram(
    counts: Counts, name: str, dataset: Location, split: str, context: int
) -> tuple[NGram, Iterator[WindowScore]]:
    """Return the n-gram model of that name, and its scores on a split."""
    ngram = fit(counts, NGRAM_ORDERS[name])
    return ngram, ngram_scores(ngram, whole_split(dataset, split, context, _BATCH))
