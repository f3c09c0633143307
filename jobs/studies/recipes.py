"""The studies: each is a function from the corpora to its design."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from whisper_gpt.jobs.common.errors import require
from whisper_gpt.jobs.studies.design import Cell, Comparison, Corpus, Made, Study, Training
from whisper_gpt.pipeline.treatment import Degradation

_GPT, _HYBRID = "gpt-4m", "hybrid-4m"
_ALL_GPT, _ALL_HYBRID = "gpt-8m", "hybrid-8m"
_BANDS, _WINDOWS, _FLOORS = (16, 32, 128), (512, 2048, 4096), (1e-6, 1e-3)
_TEST_ONLY: dict[str, Any] = {"splits": ("test",)}
_Setting = tuple[tuple[str, ...], str]  # the datasets trained on, and that tested on
_SIZES = ("1m", "4m", "12m", "40m")


def resampler(corpora: Sequence[Corpus]) -> Study:
    """Whether the mel's gain comes from the few milliseconds that a linear-phase resampler looks ahead."""
    made, trainings, comparisons = [], [], []
    for corpus in corpora:
        linear, causal = corpus.name, f"{corpus.name}-causal"
        made += [Made(linear, corpus), Made(causal, corpus, {"resampler": "minimum-phase"})]
        trainings += [Training((name,), (_GPT, _HYBRID), (name,)) for name in (linear, causal)]
        comparisons += [_gain((name,), name, _GPT, _HYBRID) for name in (linear, causal)]
        text = f"{corpus.name}: what the causal resampler does to the gain of mel"
        comparisons.append(_change_of_gain(text, ((causal,), causal), ((linear,), linear)))
    question = "Does the gain of mel depend on a resampler that looks ahead?"
    return Study(question, False, made, trainings, comparisons)


def noise(corpora: Sequence[Corpus]) -> Study:
    """How NLL, and the gain of mel, change when the test recordings are degraded."""
    made, trainings, comparisons = [], [], []
    degradations = [name for name in get_args(Degradation) if name != "none"]
    for corpus in corpora:
        clean, train = corpus.name, (corpus.name,)
        tests = [f"{clean}-{degradation}" for degradation in degradations]
        made.append(Made(clean, corpus))
        made += [
            Made(test, corpus, {"degradation": degradation, **_TEST_ONLY})
            for test, degradation in zip(tests, degradations, strict=True)
        ]
        trainings.append(Training(train, (_GPT, _HYBRID), (clean, *tests)))
        comparisons += [_gain(train, test, _GPT, _HYBRID) for test in (clean, *tests)]
        comparisons += [
            _change_of_gain(f"{test}: what the degradation does to the gain of mel", (train, test), (train, clean))
            for test in tests
        ]
    question = "How much worse are the models on degraded audio, and what is then left of the gain of mel?"
    return Study(question, False, made, trainings, comparisons)


def domain(corpora: Sequence[Corpus]) -> Study:
    """How models of one domain, and of two, do on both and on audio that none was trained on."""
    require(len(corpora) >= 2, "study domain: pass two corpora to train on; further ones are only tested on")
    first, second = (corpus.name for corpus in corpora[:2])
    tests = tuple(corpus.name for corpus in corpora)
    made = [Made(corpus.name, corpus, {} if corpus in corpora[:2] else _TEST_ONLY) for corpus in corpora]
    sets = [(first,), (second,), (first, second)]
    trainings = [Training(datasets, (_GPT, _HYBRID), tests) for datasets in sets]
    comparisons = [_gain(datasets, test, _GPT, _HYBRID) for test in tests for datasets in sets]
    both = "+".join((first, second))
    comparisons += [
        Comparison(
            f"{row} on {test}: half of the training on the other domain", Cell(both, row, test), Cell(test, row, test)
        )
        for test in (first, second)
        for row in (_GPT, _HYBRID)
    ]
    question = "How do models transfer between domains, and does mel help them?"
    return Study(question, False, made, trainings, comparisons)


def mel(corpora: Sequence[Corpus]) -> Study:
    """Which resolution of the mel of the decoded codes helps most: bands, window, floor."""
    made, trainings, comparisons = [], [], []
    for corpus in corpora:
        usual = corpus.name
        variants: dict[str, dict[str, Any]] = {
            usual: {},
            **{f"{usual}-{bands}-bands": {"mels": bands} for bands in _BANDS},
            **{f"{usual}-window-{window}": {"mel_window": window} for window in _WINDOWS},
            **{f"{usual}-floor-{floor:g}": {"mel_floor": floor} for floor in _FLOORS},
        }
        made += [Made(name, corpus, {"mel_of": "codes", **changes}) for name, changes in variants.items()]
        trainings.append(Training((usual,), (_ALL_GPT, _ALL_HYBRID), (usual,)))
        trainings += [Training((name,), (_ALL_HYBRID,), (name,)) for name in variants if name != usual]
        token_only = Cell(usual, _ALL_GPT, usual)
        hybrids = [Cell(name, _ALL_HYBRID, name) for name in variants]
        comparisons += [Comparison(f"{cell.training}: the gain of mel", cell, token_only) for cell in hybrids]
        comparisons += [
            Comparison(f"{cell.training}, against 64 bands, window 1024, floor 1e-10", cell, hybrids[0])
            for cell in hybrids[1:]
        ]
    question = "Which resolution of the mel helps a hybrid most?"
    return Study(question, True, made, trainings, comparisons)


def vocabulary(corpora: Sequence[Corpus], codecs: Sequence[str]) -> Study:
    """How bits per second, and the gain of mel, depend on the codec's codebooks."""
    require(len(codecs) >= 2, "study vocabulary: name at least two --codecs")
    made, trainings, comparisons = [], [], []
    for corpus in corpora:
        for codec in codecs:
            name = f"{corpus.name}-{Path(codec).stem}"
            made.append(Made(name, corpus, {"codec": codec, "mel_of": "codes"}))
            trainings.append(Training((name,), (_ALL_GPT, _ALL_HYBRID), (name,)))
            comparisons.append(_gain((name,), name, _ALL_GPT, _ALL_HYBRID))
    question = "How do the bits per second depend on the codec's vocabulary?"
    return Study(question, True, made, trainings, comparisons)


def scale(corpora: Sequence[Corpus]) -> Study:
    """Whether the gain of mel survives when models grow."""
    made = [Made(corpus.name, corpus) for corpus in corpora]
    rows = tuple(f"{kind}-{size}" for size in _SIZES for kind in ("gpt", "hybrid"))
    trainings = [Training((corpus.name,), rows, (corpus.name,)) for corpus in corpora]
    comparisons = [
        _gain((corpus.name,), corpus.name, f"gpt-{size}", f"hybrid-{size}") for corpus in corpora for size in _SIZES
    ]
    comparisons += [
        Comparison(
            f"{corpus.name}: hybrid-4m against gpt-40m",
            Cell(corpus.name, "hybrid-4m", corpus.name),
            Cell(corpus.name, "gpt-40m", corpus.name),
        )
        for corpus in corpora
    ]
    return Study("Does the gain of mel survive when models grow?", False, made, trainings, comparisons)


def _gain(training: tuple[str, ...], test: str, gpt: str, hybrid: str) -> Comparison:
    """Compare the hybrid to the token-only row on one test set."""
    name = "+".join(training)
    text = f"{test}: {hybrid} against {gpt}" + (f", both trained on {name}" if name != test else "")
    return Comparison(text, Cell(name, hybrid, test), Cell(name, gpt, test))


def _change_of_gain(text: str, here: _Setting, usually: _Setting) -> Comparison:
    """Compare two gains."""
    gain, usual = (_gain(*setting, _GPT, _HYBRID) for setting in (here, usually))
    return Comparison(text, gain.of, gain.base, (usual.of, usual.base))
