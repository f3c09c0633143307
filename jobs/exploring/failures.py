"""The sources that failed: by reason, one by one, and how to retry them."""

import shlex

import pandas as pd
import streamlit as st

from whisper_gpt.jobs.exploring.manifest import browser, options_file
from whisper_gpt.manifests.location import is_file, is_remote


def show_failures(address: str) -> None:
    """Show a dataset's failures."""
    failures = pd.DataFrame(browser(address).failures)
    if failures.empty:
        st.success("No source failed.")
        return
    reasons = failures.groupby(["stage", "message"]).agg(sources=("source", "count"), seconds=("seconds", "sum"))
    reasons = reasons.sort_values("sources", ascending=False).reset_index()
    st.text(f"{len(failures):,} sources failed, {failures['seconds'].sum():,.1f} s as planned")
    event = st.dataframe(reasons, hide_index=True, on_select="rerun", selection_mode="multi-row", key=f"why {address}")
    if rows := event["selection"]["rows"]:
        failures = failures.merge(reasons.iloc[rows][["stage", "message"]])
    st.dataframe(failures, hide_index=True)
    options = options_file(address)
    if not is_remote(options) and is_file(options):  # --config reads local files
        st.text("To retry them, after the files were repaired:")
        st.code(f"whisper-gpt preprocess --config {shlex.quote(str(options))} --retry-failed", language=None)
