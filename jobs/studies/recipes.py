"""The studies: each is a function from the corpora to its design."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, get_args

from whisper_gpt.jobs.common.errors import require
from whisper_gpt.jobs.studies.design import Cell, CodecChoice, Comparison, Corpus, Made, Study, Training
from whisper_gpt.pipeline.treatment import Degradation

_GPT, _HYBRID = "gpt-4m", "hybrid-4m"
_ALL_GPT, _ALL_HYBRID = "gpt-8m", "hybrid-8m"
_BANDS, _WINDOWS, _FLOOR = (16, 64, 128), (512, 1024, 4096), 1e-6
_TEST_ONLY: dict[str, Any] = {"splits": ("test",)}
_SIZES = ("1m", "4m", "12m", "40m")  # each takes about three times the FLOPs of the one before
DIVISORS = (1, 3, 9)  # of the tokens per trial
LEAST_DIVISOR = {"40m": 3}  # with all tokens it would cost about as much as all other trials together


def resampler(corpora: Sequence[Corpus]) -> Study:
    """Whether the mel's gain comes from the few milliseconds that a linear-phase resampler looks ahead."""
    made, trainings, comparisons = [], [], []
    for corpus in corpora:
        linear, causal = corpus.name, f"{corpus.name}-causal"
        made += [Made(linear, corpus), Made(causal, corpus, {"resampler": "minimum-phase"})]
        trainings += [Training((name,), (_GPT, _HYBRID), (name,)) for name in (linear, causal)]
        gains = [_gain(name, name) for name in (linear, causal)]
        change = _change(f"{corpus.name}: what the causal resampler does to the gain of mel", gains[1], gains[0])
        comparisons += [*gains, change]
    question = "Does the gain of mel depend on a resampler that looks ahead?"
    return Study(question, False, made, trainings, comparisons)


def noise(corpora: Sequence[Corpus]) -> Study:
    """How the gain of mel changes when the test recordings are degraded, and whether degraded training data helps."""
    made, trainings, comparisons = [], [], []
    degradations = [name for name in get_args(Degradation) if name != "none"]
    for corpus in corpora:
        clean, tests = corpus.name, [f"{corpus.name}-{degradation}" for degradation in degradations]
        made.append(Made(clean, corpus))
        made += [
            Made(test, corpus, {"degradation": degradation})
            for test, degradation in zip(tests, degradations, strict=True)
        ]
        every, mixed = (clean, *tests), f"{corpus.name}-clean-and-degraded"
        trainings.append(Training((clean,), (_GPT, _HYBRID), every))
        trainings.append(Training(every, (_GPT, _HYBRID), every, name=mixed))
        usual, gains = _gain(clean, clean), [_gain(clean, test) for test in tests]
        comparisons += [usual, *gains, *(_gain(mixed, test) for test in every)]
        comparisons += [
            _change(f"{test}: what the degradation does to the gain of mel", gain, usual)
            for test, gain in zip(tests, gains, strict=True)
        ]
        comparisons += [
            Comparison(f"{row} on {clean}, trained on {mixed}", Cell(mixed, row, clean), Cell(clean, row, clean))
            for row in (_GPT, _HYBRID)
        ]
    question = "What is left of the gain of mel on degraded audio, and does degraded training data bring it back?"
    caveat = (
        "Degraded audio has other codes. A higher NLL on it may say that these are harder to predict, for any model, "
        "not only that the model was trained on others."
    )
    return Study(question, False, made, trainings, comparisons, (caveat,))


def domain(corpora: Sequence[Corpus]) -> Study:
    """How models of one domain, and of two, do on both and on audio that none was trained on."""
    require(len(corpora) >= 2, "study domain: pass two corpora to train on; further ones are only tested on")
    first, second, *others = (corpus.name for corpus in corpora)
    both, tests = f"{first}+{second}", (first, second, *others)
    made = [Made(corpus.name, corpus, {} if corpus in corpora[:2] else _TEST_ONLY) for corpus in corpora]
    trainings = [Training(names, (_GPT, _HYBRID), tests) for names in ((first,), (second,), (first, second))]
    comparisons = [_gain(training, test) for test in tests for training in (first, second, both)]
    for test, other in ((first, second), (second, first)):
        for row in (_GPT, _HYBRID):
            own = Cell(test, row, test)
            comparisons += [
                Comparison(f"{row} on {test}: trained on {other} instead", Cell(other, row, test), own),
                Comparison(f"{row} on {test}: half of the training on {other}", Cell(both, row, test), own),
            ]
        text = f"{test}: what training on {other} instead does to the gain of mel"
        comparisons.append(_change(text, _gain(other, test), _gain(test, test)))
    question = "How do models transfer between domains, and does mel help them?"
    return Study(question, False, made, trainings, comparisons)


def mel(corpora: Sequence[Corpus]) -> Study:
    """Which resolution of the mel of the decoded codes helps most: bands and window, and a higher floor."""
    made, trainings, comparisons = [], [], []
    for corpus in corpora:
        variants: dict[str, dict[str, Any]] = {
            f"{corpus.name}-{bands}-bands-{window}": {"mels": bands, "mel_window": window}
            for bands, window in product(_BANDS, _WINDOWS)
        }
        variants[f"{corpus.name}-floor"] = {"mel_floor": _FLOOR}
        usual = f"{corpus.name}-64-bands-1024"
        made += [Made(name, corpus, {"mel_of": "codes", **changes}) for name, changes in variants.items()]
        trainings.append(Training((usual,), (_ALL_GPT, _ALL_HYBRID), (usual,)))
        trainings += [Training((name,), (_ALL_HYBRID,), (name,)) for name in variants if name != usual]
        hybrids = {name: Cell(name, _ALL_HYBRID, name) for name in variants}
        comparisons += [
            Comparison(f"{name}: the gain of mel", hybrid, Cell(usual, _ALL_GPT, usual))
            for name, hybrid in hybrids.items()
        ]
        comparisons += [
            Comparison(f"{name} against 64 bands, window 1024", hybrid, hybrids[usual])
            for name, hybrid in hybrids.items()
            if name != usual
        ]
    question = "Which bands and window of the mel help a hybrid most, and does a higher floor?"
    return Study(question, True, made, trainings, comparisons)


def vocabulary(corpora: Sequence[Corpus], codecs: Sequence[CodecChoice]) -> Study:
    """How bits per second, and the gain of mel, depend on the codec's codebooks."""
    made, trainings, comparisons = [], [], []
    for corpus, codec in product(corpora, codecs):
        name = f"{corpus.name}-{codec.name}"
        options = {"codec": codec.codec, "codebooks": codec.codebooks, "mel_of": "codes"}
        made.append(Made(name, corpus, options))
        trainings.append(Training((name,), (_ALL_GPT, _ALL_HYBRID), (name,)))
        comparisons.append(_gain(name, name, _ALL_GPT, _ALL_HYBRID))
    question = "How do the bits per second, and the gain of mel, depend on the codec's codebooks?"
    caveat = "Bits per second of different codecs are likelihoods of different codes: compare them at equal distortion."
    return Study(question, True, made, trainings, comparisons, (caveat,))


def scale(corpora: Sequence[Corpus]) -> Study:
    """How the gain of mel changes with the size of the models and the length of their training."""
    made = [Made(corpus.name, corpus) for corpus in corpora]
    trainings: list[Training] = []
    comparisons: list[Comparison] = []
    for name in (corpus.name for corpus in corpora):
        gains: dict[tuple[str, int], Comparison] = {}
        for divisor in DIVISORS:
            sizes = [size for size in _SIZES if divisor >= LEAST_DIVISOR.get(size, 1)]
            rows = tuple(f"{kind}-{size}" for size in sizes for kind in ("gpt", "hybrid"))
            label = name if divisor == 1 else f"{name}-tokens-over-{divisor}"
            training = Training((name,), rows, (name,), divisor, label)
            trainings.append(training)
            for size in sizes:
                gpt, hybrid = (Cell(training.name, f"{kind}-{size}", name) for kind in ("gpt", "hybrid"))
                text = f"{name}: hybrid-{size} against gpt-{size}, {_tokens(divisor)}"
                gains[size, divisor] = Comparison(text, hybrid, gpt)
        comparisons += gains.values()
        pairs = [
            *(("three times the tokens", (size, 1), (size, 3)) for size in _SIZES if size not in LEAST_DIVISOR),
            ("three times the tokens", ("40m", 3), ("40m", 9)),
            *(("a larger model, equal tokens", (large, 3), (small, 3)) for small, large in pairwise(_SIZES)),
            *(("a larger model, about equal FLOPs", (large, 3), (small, 1)) for small, large in pairwise(_SIZES)),
        ]
        comparisons += [
            _change(f"{name}: the gain of mel with {what}: {_at(here)} against {_at(there)}", gains[here], gains[there])
            for what, here, there in pairs
        ]
        text = f"{name}: hybrid-4m against gpt-40m, {_tokens(3)}"
        comparisons.append(Comparison(text, gains["4m", 3].of, gains["40m", 3].base))
    question = "How does the gain of mel change with the size of the models and the length of their training?"
    return Study(question, False, made, trainings, comparisons)


def _tokens(divisor: int) -> str:
    return "all tokens" if divisor == 1 else f"tokens / {divisor}"


def _at(point: tuple[str, int]) -> str:
    size, divisor = point
    return f"{size} and {_tokens(divisor)}"


def _gain(training: str, test: str, gpt: str = _GPT, hybrid: str = _HYBRID) -> Comparison:
    """Compare the hybrid to the token-only row on one test set."""
    text = f"{test}: {hybrid} against {gpt}" + (f", both trained on {training}" if training != test else "")
    return Comparison(text, Cell(training, hybrid, test), Cell(training, gpt, test))


def _change(text: str, here: Comparison, usually: Comparison) -> Comparison:
    """Compare two gains."""
    return Comparison(text, here.of, here.base, (usually.of, usually.base))
