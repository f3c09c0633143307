"""What a table compares its rows by: the NLL of codebook 0, as the paper does, or bits per second of all codebooks."""

import math
from dataclasses import dataclass, replace

from whisper_gpt.pipeline.frames import FRAME_RATE


@dataclass(frozen=True)
class Measure:
    """A measure that is proportional to the nats per frame, over the codebooks that a row predicts."""

    name: str
    axis: str  # of plots
    per_nat: float  # converts nats per frame
    decimals: int
    baseline: str  # the row that differences are relative to
    remedy: str  # how to make a dataset that allows every row
    ngrams: bool  # whether the n-gram baselines, which count codebook 0, are in the table
    legend: tuple[str, ...]

    @property
    def heading(self) -> str:
        """The heading of the table."""
        return "Reproduction of the WHISPER-GPT table" if self.ngrams else "Models of all codebooks"

    def value(self, nats: float) -> str:
        """Format nats per frame in this measure."""
        return f"{self.per_nat * nats:,.{self.decimals}f}"

    def signed(self, nats: float) -> str:
        """Format a difference with one more decimal and a sign (a true minus); without a sign if all digits are 0."""
        text = f"{self.per_nat * nats:+,.{self.decimals + 1}f}".replace("-", "−")
        return text[1:] if not text[1:].strip("0.") else text


_STATISTICS = (
    "Intervals are 95 % bootstrap intervals, with percentiles expanded for small numbers, over speakers, or over "
    "recordings if no speaker is known, for the models as trained: they show the variation over speakers, not over "
    "seeds. Seed SD is the standard deviation over seeds.",
    "Δ is the difference to a row's base, paired by speaker (recording): below 0 is better than the base. p is that of "
    "a two-sided sign-flip permutation test, without correction for the number of tests. A row is called lower or "
    "higher if the interval excludes 0 and p is below 0.05. By seed: the Δ of each seed; a seed gives both rows the "
    "same windows in the same order.",
)
_WINDOWS = (
    "Samples are cut into windows, each scored from an empty history. A mel frame covers earlier samples, so the first "
    "frames of a later window give a hybrid a little of the audio before it, which a token-only row does not have; "
    "and if the mel is of decoded codes, the decoder's state continues from the recording's start."
)
_DECODER = (
    "The rows of decoded mel use the codec's trained decoder: its parameters, its operations and its training data are "
    "in no column."
)
_MEL_LOSS = (
    "Rows that read mel are also trained to predict the next mel frame, with a tenth of the token's weight, and with "
    "noise on their mel input; hybrids also without mel in a tenth of the windows, so that they tolerate their own "
    "output. This costs them some hundredths of a nat; token-only rows have no such cost."
)
_PER_SEED = (
    "FLOPs/frame are for training; parameters, FLOPs and frames trained are per seed, wall time is the mean over seeds."
)

_BITS = (
    "Bits/s is the negative log-likelihood of all codebooks in bits per second of audio: 75 / ln 2 times the nats per "
    "frame, summed over the codebooks, mean over seeds. Every row is a likelihood of the same codes: the hybrid's mel "
    "is computed from the codes of earlier frames. Accuracy is top-1 accuracy of codebook 0."
)

NLL = Measure(
    name="NLL",
    axis="NLL, nats per token",
    per_nat=1.0,
    decimals=3,
    baseline="gpt-4m",
    remedy="preprocess --mel-of both --leaky-control makes the variants of all; for gpt-8m, … pass --all-codebooks",
    ngrams=True,
    legend=(
        "NLL is in nats per token of codebook 0: the sum of nats over the sum of tokens, mean over seeds. PPL is its "
        "exponential. Accuracy is top-1 accuracy.",
        *_STATISTICS,
        "A hybrid with real mel reads information that the tokens do not contain, so its NLL is not a likelihood of "
        "the token sequence; nor is that of a model of mel alone. A model that reads all codebooks, or the mel of "
        "several decoded codebooks, also conditions codebook 0 on the past of the others. Comparable as likelihoods of "
        "codebook 0 are the token-only rows, the n-gram baselines, and the hybrid with the mel of codebook 0 decoded "
        "alone (hybrid-4m-codes-1).",
        _WINDOWS,
        _DECODER,
        _MEL_LOSS,
        "The centred row (hybrid-4m-centred) is a control, not a model: its mel window sees up to 704 samples of the "
        "future. That window is also twice as long as that of the other rows.",
        "N-gram baselines count the whole training split once, whatever the models are trained on.",
        _PER_SEED,
        "The paper's figures (arXiv 2412.11449: GPT-S, GPT-L, Hybrid) are of its own subsets and tokens: only "
        "the differences can be compared, not the values. Its hybrid's PPL on LibriSpeech, 6.96, is not exp(1.93) = "
        "6.89.",
    ),
)
# What a study compares by: without n-grams, and with a legend that suits any of its rows.
STUDIED_NLL = replace(
    NLL,
    ngrams=False,
    legend=(
        "NLL is in nats per token of codebook 0: the sum of nats over the sum of tokens, mean over seeds. Accuracy is "
        "top-1 accuracy.",
        "A hybrid reads the mel of the audio, which holds information that the tokens do not, so its NLL is not a "
        "likelihood of the token sequence.",
        _WINDOWS,
        _MEL_LOSS,
    ),
)
BITS_PER_S = Measure(
    name="bits/s",
    axis="bits per second of audio",
    per_nat=FRAME_RATE / math.log(2),
    decimals=0,
    baseline="gpt-8m",
    remedy="preprocess --mel-of codes makes the variant of all rows",
    ngrams=False,
    legend=(
        _BITS,
        *_STATISTICS,
        "A row of the flat pattern has as many positions per frame as there are codebooks, K. Its windows hold as many "
        "positions as those of other rows (delay: K - 1 more), so a K-th of the frames, and its steps K times as many "
        "windows: as many frames per step, but not the same ones, so its Δ by seed is not paired by data.",
        "Trained is the NLL of codebook 0 plus the mean of the others', in every row; compared is their sum. A depth "
        "decoder has parameters of its own for the finer codebooks, the one decoder of a pattern has not, so another "
        "weighting may suit the patterns better.",
        _WINDOWS,
        _DECODER,
        _MEL_LOSS,
        _PER_SEED,
    ),
)
STUDIED_BITS = replace(BITS_PER_S, legend=(_BITS, _WINDOWS, _DECODER, _MEL_LOSS))
