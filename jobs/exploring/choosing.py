"""A table in which a click on a row chooses its sample; the choice is part of the page's address."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import pyarrow as pa
import streamlit as st


def choice(
    table: pa.Table | pd.DataFrame, keys: Sequence[str], name: str, height: int | Literal["auto"] = "auto"
) -> None:
    """Show a table of samples with these keys; `name` identifies it between runs of the page."""

    def choose() -> None:  # only when the selection changes: another table may choose later
        if rows := st.session_state[name]["selection"]["rows"]:
            st.query_params["sample"] = keys[rows[0]]

    st.dataframe(table, hide_index=True, height=height, key=name, on_select=choose, selection_mode="single-row")
