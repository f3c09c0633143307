"""The report has every row and contrast, the right verdicts, and JSON that survives a round trip."""

import json
import math
import re

import numpy as np
import pytest

from whisper_gpt.jobs.common.bootstrap import Interval
from whisper_gpt.jobs.reproduction.contrasts import contrasts, sentence, verdict
from whisper_gpt.jobs.reproduction.statistics import Difference, difference, interval, nll
from whisper_gpt.jobs.reproduction.table import _duration, _si, paper_figures, table_json, table_markdown

CONTRASTS = [
    ("hybrid-4m", "gpt-40m"),
    ("hybrid-4m", "gpt-4m"),
    ("hybrid-4m-codes-8", "gpt-4m-all-codes"),
    ("hybrid-4m-codes-8", "gpt-4m"),
    ("hybrid-4m-codes-1", "gpt-40m"),
    ("hybrid-4m-codes-1", "gpt-4m"),
    ("hybrid-4m", "hybrid-4m-codes-8"),
    ("hybrid-4m", "mel-alone"),
    ("hybrid-4m-centred", "hybrid-4m"),
]


def cells_of(markdown: str, name: str) -> list[str]:
    """The cells of the table line of row `name`, split at unescaped pipes."""
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {name} ("))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_row_is_in_the_table_of_its_domain(all_rows) -> None:
    markdown = table_markdown({"speech": all_rows, "music": all_rows[:2]}, ["Tokens of the small codec."])
    speech, music = markdown.split("## music")
    for row in all_rows:
        assert len(cells_of(speech, row.row)) == 13
    assert music.count("\n| gpt-") == 2 and "mel-alone" not in music.split("## What")[0]
    assert "- Tokens of the small codec." in speech
    assert f"40 recordings, {all_rows[0].tokens.sum():,} tokens" in speech


def test_cells_match_the_statistics(all_rows) -> None:
    markdown = table_markdown({"speech": all_rows}, [])
    gpt, hybrid, mel, baseline = (cells_of(markdown, name) for name in ("gpt-4m", "hybrid-4m", "mel-alone", "unigram"))
    low, high = interval(all_rows[0])
    assert gpt[2:5] == ["3.67 M", "22.0 M", f"{nll(all_rows[0]):.3f} [{low:.3f}, {high:.3f}]"]
    assert gpt[7] == "–" and gpt[9:] == ["50.0 M", "0.001", "5 min", "2.02 / 34.18% / 7.54"]
    delta = difference(all_rows[3], all_rows[0]).delta
    assert delta < 0 and hybrid[7].startswith(f"−{-delta:.4f} [−") and hybrid[7].endswith("p < 0.001")
    assert mel[1] == r"mel \| no tokens" and mel[7].startswith("+0.")
    assert [baseline[i] for i in (3, 8, 10, 12)] == ["–", "–", "–", "–"]


def test_contrasts_and_their_verdicts(all_rows) -> None:
    found_contrasts = contrasts(all_rows)
    assert [(c.row, c.base) for c in found_contrasts] == CONTRASTS
    verdicts = {(c.row, c.base): verdict(c.difference) for c in found_contrasts}
    assert verdicts["hybrid-4m-codes-8", "gpt-4m-all-codes"] == verdicts["hybrid-4m-codes-1", "gpt-40m"] == "higher"
    assert verdicts["hybrid-4m-codes-1", "gpt-4m"] == "no difference that this test set can show"
    assert list(verdicts.values()).count("lower") == 6
    by_name = {row.row: row for row in all_rows}
    for contrast in found_contrasts:
        assert contrast.difference == difference(by_name[contrast.row], by_name[contrast.base])
    markdown = table_markdown({"speech": all_rows}, [])
    for contrast in found_contrasts:
        assert f"- {sentence(contrast)}\n" in markdown
    assert "hybrid-4m-centred against hybrid-4m (the price of a leak): lower" in markdown


def test_contrasts_without_a_row_are_left_out(all_rows) -> None:
    remaining = [row for row in all_rows if row.row not in ("gpt-40m", "hybrid-4m-codes-8", "mel-alone")]
    assert [(c.row, c.base) for c in contrasts(remaining)] == [
        ("hybrid-4m", "gpt-4m"),
        ("hybrid-4m-codes-2", "gpt-4m-all-codes"),
        ("hybrid-4m-codes-2", "gpt-4m"),
        ("hybrid-4m-codes-1", "gpt-4m"),
        ("hybrid-4m", "hybrid-4m-codes-2"),
        ("hybrid-4m-centred", "hybrid-4m"),
    ]
    assert contrasts(all_rows[:1]) == []
    assert "Contrasts" not in table_markdown({"speech": all_rows[:1]}, [])


def test_largest_codes_row_is_chosen_numerically(result_row) -> None:
    rows = [result_row(name) for name in ("gpt-4m", "hybrid-4m-codes-2", "hybrid-4m-codes-16", "hybrid-4m-codes-8")]
    assert [c.row for c in contrasts(rows)] == ["hybrid-4m-codes-16"]


@pytest.mark.parametrize(
    ("ends", "p", "words"),
    [
        (Interval(-0.3, -0.1), 0.01, "lower"),
        (Interval(0.1, 0.3), 0.01, "higher"),
        (Interval(-0.3, -0.1), 0.0625, "no difference that this test set can show"),
        (Interval(-0.1, 0.3), 0.01, "no difference that this test set can show"),
        (Interval(-0.3, 0.0), 0.01, "no difference that this test set can show"),
        (None, None, "too few recordings to say"),
    ],
)
def test_verdict_needs_interval_and_p_value(ends, p, words) -> None:
    delta = sum(ends) / 2 if ends else 0.5
    assert verdict(Difference(delta, ends, p, ())) == words


def test_five_recordings_cannot_show_a_difference(result_row) -> None:
    rows = [result_row(recordings=5), result_row("hybrid-4m", 1.0, recordings=5)]
    assert verdict(contrasts(rows)[0].difference) == "no difference that this test set can show"


def test_sentence_has_delta_interval_p_and_seeds(result_row) -> None:
    base = result_row()
    contrast = contrasts([base, result_row("hybrid-4m", nats=base.nats.copy())])[0]
    assert re.fullmatch(
        r"hybrid-4m against gpt-4m: no difference that this test set can show "
        r"\(Δ 0\.0000 \[0\.0000, 0\.0000\], p = 1\.000; by seed 0\.0000, 0\.0000\)\.",
        sentence(contrast),
    )
    one_seed = contrasts([result_row(seeds=1), result_row("hybrid-4m", seeds=1)])[0]
    assert sentence(one_seed).endswith("; one seed).")


def test_json_round_trip(all_rows) -> None:
    content = table_json({"speech": all_rows, "empty": []}, ["a line"])
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    rows, json_contrasts = content["domains"]["speech"]["rows"], content["domains"]["speech"]["contrasts"]
    assert [row["row"] for row in rows] == [row.row for row in all_rows]
    assert [(c["row"], c["base"]) for c in json_contrasts] == CONTRASTS
    assert rows[3]["nll"] == nll(all_rows[3]) and rows[3]["nll_interval"] == list(interval(all_rows[3]))
    assert rows[3]["against_baseline"]["delta"] == json_contrasts[1]["delta"] == nll(all_rows[3]) - nll(all_rows[0])
    assert rows[0]["against_baseline"] is None and rows[0]["paper"]["ppl"] == 7.54
    assert content["note"] == ["a line"] and content["domains"]["empty"]["rows"] == []


def test_diverged_run_and_single_recording_are_shown(result_row) -> None:
    base = result_row()
    diverged = result_row("hybrid-4m", nats=np.full(base.nats.shape, np.nan))
    markdown = table_markdown({"speech": [base, diverged]}, [])
    assert "not a number, a run diverged" in markdown and cells_of(markdown, "hybrid-4m")[5] == "nan"
    assert cells_of(markdown, "hybrid-4m")[7] == "+nan [+nan, +nan], p = nan"
    assert table_json({"speech": [base, diverged]}, [])["domains"]["speech"]["rows"][1]["nll"] is None
    single_recording = table_markdown({"speech": [result_row(recordings=1), result_row("hybrid-4m", recordings=1)]}, [])
    assert "too few recordings to say" in single_recording and "[" not in cells_of(single_recording, "hybrid-4m")[4]


def test_paper_figures_are_chosen_by_domain_name() -> None:
    assert paper_figures("LibriSpeech clean", "hybrid-4m").nll == 1.93
    assert paper_figures("music", "gpt-40m") == (2.77, 0.3572, 15.96)
    assert paper_figures("birds", "hybrid-4m") is None and paper_figures("music", "mel-alone") is None


@pytest.mark.parametrize("domain", ["speech", "music"])
@pytest.mark.parametrize("row", ["gpt-4m", "gpt-40m", "hybrid-4m"])
def test_paper_perplexities_match_its_nlls(domain, row) -> None:
    # In the paper itself, the hybrid on LibriSpeech is off by 0.01 nats.
    figures = paper_figures(domain, row)
    assert math.log(figures.ppl) == pytest.approx(figures.nll, abs=0.011)


def test_numbers_and_durations_are_abbreviated() -> None:
    assert [_si(n) for n in (512, 1024, 999_600, 3_670_000, 38_800_000, 2.33e8, 1.5e12)] == [
        "512",
        "1.02 k",
        "1.00 M",
        "3.67 M",
        "38.8 M",
        "233 M",
        "1.50 T",
    ]
    assert [_duration(s) for s in (45, 600, 9000)] == ["45 s", "10 min", "2.5 h"]
