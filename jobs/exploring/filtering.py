"""The sidebar's controls and the distributions: together they make the filter of the samples."""

import altair as alt
import pandas as pd
import streamlit as st

from whisper_gpt.jobs.exploring.manifest import as_text
from whisper_gpt.manifests.browse import Browser, Filter
from whisper_gpt.manifests.query import QueryError

_TEXT = {"split": "split", "corpus": "corpus", "speaker": "speaker", "composer": "composer", "sex": "sex"}
_NUMBERS = {"duration_s": "duration, s", "rms_dbfs": "RMS level, dBFS", "peak_dbfs": "peak, dBFS"}
_BARS = 20  # values of a text column in its chart


def sidebar_filter(browser: Browser, name: str) -> Filter:
    """Show the controls of the dataset called `name`, and return their filter."""
    with st.sidebar:
        sql = st.text_input("SQL condition", key=f"sql {name}", placeholder="duration_s > 10 and text like '%SEA%'")
        values = []
        for column, label in _TEXT.items():
            choices = browser.distinct(column)
            if len(choices) > 1 and (chosen := st.multiselect(label, choices, key=f"{column} {name}")):
                values.append((column, tuple(chosen)))
        ranges = []
        for column, label in _NUMBERS.items():
            edges = browser.bins(column, Filter()).edges
            if edges and edges[0] < edges[-1]:
                low, high = st.slider(label, edges[0], edges[-1], (edges[0], edges[-1]), key=f"{column} {name}")
                if (low, high) != (edges[0], edges[-1]):
                    ranges.append((column, (low, high)))
        if st.checkbox("clipped only", key=f"clipped {name}"):
            ranges.append(("clipped_share", (1e-12, 1.0)))
    return Filter(sql, tuple(values), tuple(ranges))


def distributions(browser: Browser, filter: Filter, name: str) -> Filter:
    """Show distributions of the filtered samples; return the filter narrowed by what is selected in them.

    Each chart shows what the others leave, so that its own selection can be changed.
    """
    shown = [column for column in ("speaker", "composer", "split") if len(browser.distinct(column)) > 1][:1]
    selections = {column: _selection(f"chart {column} {name}") for column in ("duration_s", "rms_dbfs", *shown)}
    narrowed = filter
    for column, selected in selections.items():
        narrowed = _narrowed(narrowed, column, selected)
    for box, column in zip(st.columns(len(selections)), selections, strict=True):
        others = filter
        for other, selected in selections.items():
            others = others if other == column else _narrowed(others, other, selected)
        with box:
            chart = _histogram(browser, others, column) if column in _NUMBERS else _bars(browser, others, column)
            st.altair_chart(chart, key=f"chart {column} {name}", on_select="rerun")
    return narrowed


def is_valid(browser: Browser, filter: Filter) -> bool:
    """Whether the filter's SQL condition can be answered; if not, show why."""
    try:
        browser.totals(filter)
    except QueryError as error:
        st.error(as_text(str(error)))
        return False
    return True


def _histogram(browser: Browser, filter: Filter, column: str) -> alt.Chart:
    bins = browser.bins(column, filter)
    frame = pd.DataFrame({"low": bins.edges[:-1], "high": bins.edges[1:], "samples": bins.counts})
    brush = alt.selection_interval(name="selected", encodings=["x"])
    x = alt.X("low:Q", bin="binned", title=_NUMBERS[column])
    chart = alt.Chart(frame, height=150).mark_bar().encode(x=x, x2="high", y=alt.Y("samples:Q", title=None))
    return chart.add_params(brush)


def _bars(browser: Browser, filter: Filter, column: str) -> alt.Chart:
    groups = browser.groups(column, filter, _BARS)
    frame = pd.DataFrame({column: [g.name for g in groups], "samples": [g.samples for g in groups]})
    click = alt.selection_point(name="selected", fields=[column])
    x = alt.X(f"{column}:N", sort=None, title=f"{column}, the {_BARS} commonest at most")
    chart = alt.Chart(frame, height=150).mark_bar().encode(x=x, y=alt.Y("samples:Q", title=None))
    return chart.encode(opacity=alt.condition(click, alt.value(1.0), alt.value(0.4))).add_params(click)


def _selection(key: str) -> object:
    """Return what is selected in a chart, from its last run."""
    state = st.session_state.get(key)
    return state["selection"].get("selected") if state else None


def _narrowed(filter: Filter, column: str, selected: object) -> Filter:
    if not selected:
        return filter
    if column in _NUMBERS and isinstance(selected, dict):
        low, high = next(iter(selected.values()))
        return Filter(filter.sql, filter.values, (*filter.ranges, (column, (low, high))))
    if isinstance(selected, list):
        return Filter(filter.sql, (*filter.values, (column, tuple(row[column] for row in selected))), filter.ranges)
    return filter
