"""The floors beneath every model: n-gram models of the training split's tokens, window by window as models see them."""

from collections.abc import Iterator

from whisper_gpt.jobs.inference.scoring import WindowScore, ngram_scores, sequences
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import Location
from whisper_gpt.model.ngram import Counts, NGram, count, fit
from whisper_gpt.pipeline.loading.stream import whole_split

# By their order.
FLOORS = {"unigram": 1, "bigram": 2, "5-gram": 5}

COUNTING_BYTES_PER_TOKEN = 100
_READ_TOGETHER = 16


def count_training(dataset: Location, context: int) -> Counts:
    """The n-grams of the training split, of the highest order; about 100 bytes a token."""
    vocab = read_info(dataset).codec["codebook_size"]
    windows = whole_split(dataset, "train", context, _READ_TOGETHER)
    return count((tokens for _, tokens in sequences(windows)), vocab, max(FLOORS.values()))


def score_floor(
    counts: Counts, name: str, dataset: Location, split: str, context: int
) -> tuple[NGram, Iterator[WindowScore]]:
    """The floor of that name, and its scores on a split."""
    ngram = fit(counts, FLOORS[name])
    return ngram, ngram_scores(ngram, whole_split(dataset, split, context, _READ_TOGETHER))
