"""Two datasets side by side: their settings and totals, and the same part of a recording in both."""

import pandas as pd
import streamlit as st

from whisper_gpt.jobs.exploring.manifest import browser, errors_shown, info
from whisper_gpt.jobs.exploring.sample import show_players_and_picture
from whisper_gpt.jobs.exploring.settings import Settings
from whisper_gpt.manifests.browse import Filter

_ROWS = 100


def show_comparison(settings: Settings) -> None:
    """Show two of the datasets, by default the first two."""
    boxes = st.columns(2)
    left = boxes[0].selectbox("dataset", settings.datasets, key="left")
    right = boxes[1].selectbox("and", settings.datasets, index=1, key="right")
    with errors_shown():
        facts = _facts(left)
        st.dataframe(pd.DataFrame({"": facts.keys(), left: facts.values(), right: _facts(right).values()}))
        wanted = st.text_input("source, or a part of its path", key="compared source")
        escaped = wanted.replace("'", "''")
        table = browser(left).page(Filter(f"contains(source, '{escaped}')"), "key", False, _ROWS, 0)
        event = st.dataframe(
            table.select(["source", "start_s", "duration_s", "split"]),
            hide_index=True,
            height=200,
            on_select="rerun",
            selection_mode="single-row",
            key=f"compared {left} {right} {wanted}",
        )
        if rows := event["selection"]["rows"]:
            side_by_side(settings, left, right, table.slice(rows[0], 1).to_pylist()[0])


def side_by_side(settings: Settings, left: str, right: str, row: dict) -> None:
    """Show a row of the left dataset beside the same part of its recording in the right one."""
    others = browser(right).segments(row["corpus"], row["source"])
    same = [other for other in others if other["start_s"] == row["start_s"]]
    if not same:
        st.text(f"{row['source']} from {row['start_s']:.3f} s on is no sample of {right}.")
        return
    sides = zip(st.columns(2), ("left", "right"), (left, right), (row, same[0]), strict=True)
    for box, side, address, sample in sides:
        with box:
            st.text(address)
            show_players_and_picture(settings, address, sample["shard"], sample["key"], side)


def _facts(address: str) -> dict[str, str]:
    about, (count, seconds) = info(address), browser(address).totals(Filter())
    return {
        "corpus": about.corpus,
        "samples": f"{count:,}",
        "hours": f"{seconds / 3600:,.3f}",
        "failed sources": f"{about.failed_sources:,}",
        "codec": f"{about.codec['name']}, {about.codec['codebooks']} × {about.codec['codebook_size']}",
        "its weights": about.codec["weights_sha256"][:12],
        "mel": f"{about.mel['bands']} bands, window {about.mel['window_samples']}",
        "mel of": ", ".join(about.mel["variants"]),
    }
