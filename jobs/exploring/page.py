"""The page of `whisper-gpt explore`: the choice of a dataset and of a view."""

import streamlit as st

from whisper_gpt.jobs.exploring.failures import show_failures
from whisper_gpt.jobs.exploring.manifest import errors_shown
from whisper_gpt.jobs.exploring.samples import show_samples
from whisper_gpt.jobs.exploring.settings import Settings


def show(settings: Settings) -> None:
    """Show the page; Streamlit calls this again after every interaction."""
    st.set_page_config("whisper-gpt explore", layout="wide")
    views = ["samples", "failures"]
    views += ["compare"] if len(settings.datasets) > 1 else []
    views += ["runs"] if settings.runs else []
    with st.sidebar:
        address = settings.datasets[0]
        if len(settings.datasets) > 1:
            address = st.selectbox("dataset", settings.datasets, key="dataset")
        else:
            st.code(address, language=None)
    view = st.segmented_control("view", views, default="samples", required=True, key="view")
    with errors_shown():
        if view == "failures":
            show_failures(address)
        elif view == "compare":
            from whisper_gpt.jobs.exploring.comparison import show_comparison  # imports torch, as the next does

            show_comparison(settings)
        elif view == "runs":
            from whisper_gpt.jobs.exploring.runs import show_runs

            show_runs(settings)
        else:
            show_samples(settings, address)
