"""The table of a dataset's samples: filtered, sorted, in pages; a click on a row shows the sample below it."""

import streamlit as st

from whisper_gpt.jobs.exploring.choosing import choice
from whisper_gpt.jobs.exploring.filtering import distributions, is_valid, sidebar_filter
from whisper_gpt.jobs.exploring.manifest import browser
from whisper_gpt.jobs.exploring.settings import Settings
from whisper_gpt.manifests.browse import COLUMNS

_ROWS = 100
_FIRST = ("key", "split", "duration_s", "speaker", "composer", "title", "text", "rms_dbfs", "peak_dbfs", "source")


def show_samples(settings: Settings, address: str) -> None:
    """Show distributions, table and the chosen sample of one dataset."""
    samples = browser(address)
    filter = sidebar_filter(samples, address)
    if not is_valid(samples, filter):
        return
    filter = distributions(samples, filter, address)
    count, seconds = samples.totals(filter)
    st.text(f"{count:,} of {samples.count:,} samples · {seconds / 3600:,.3f} h")
    order_box, direction_box, page_box = st.columns([3, 2, 2], vertical_alignment="bottom")
    order = order_box.selectbox("sort by", COLUMNS, key=f"order {address}")
    descending = direction_box.checkbox("largest first", key=f"descending {address}")
    pages = max(1, -(-count // _ROWS))
    page = min(pages, page_box.number_input(f"page, of {pages:,}", 1, pages, key=f"page {address}"))
    table = samples.page(filter, order, descending, _ROWS, (page - 1) * _ROWS)
    used = [name for name in _FIRST if any(table[name].to_pylist())]
    choice(
        table.select(used),
        table["key"].to_pylist(),
        f"table {address} {order} {descending} {page} {filter}",
        height=300,
    )
    key = st.query_params.get("sample")
    if key is not None:
        from whisper_gpt.jobs.exploring.sample import show_sample  # imports torch

        show_sample(settings, address, key)
