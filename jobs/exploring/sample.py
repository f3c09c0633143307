"""One sample: its text, its sound from its codes and from the original, mel and codes, its place, its neighbours."""

import pandas as pd
import streamlit as st

from whisper_gpt.jobs.exploring.choosing import choice
from whisper_gpt.jobs.exploring.content import arrays, decoded, manifest_row, original
from whisper_gpt.jobs.exploring.manifest import browser, errors_shown, info
from whisper_gpt.jobs.exploring.runs import continuation, surprise
from whisper_gpt.jobs.exploring.settings import Settings, dataset_at
from whisper_gpt.manifests.figures import Example, sample_figure
from whisper_gpt.pipeline.frames import FRAME_RATE
from whisper_gpt.pipeline.shards.tar import shard_path

_LONGEST_S = 10.0  # shown at once; the slider moves it


def show_sample(settings: Settings, address: str, key: str) -> None:
    """Show everything that is known of a sample."""
    row = browser(address).sample(key)
    if row is None:
        st.info("Choose a sample in the table.")
        return
    shard = row["shard"]
    st.code(key, language=None)
    if text := row["text"] or " – ".join(part for part in (row["composer"], row["title"]) if part):
        st.text(text)
    show_players_and_picture(settings, address, shard, key)
    with errors_shown():
        for run in settings.runs:
            continuation(settings, address, shard, key, run)
    place, neighbours = st.tabs(["manifest row", "neighbours in the recording"])
    with place, errors_shown():
        st.text(str(shard_path(dataset_at(address), row["split"], shard)))
        st.json(manifest_row(address, shard, key))
    with neighbours:
        segments = browser(address).segments(row["corpus"], row["source"])
        frame = pd.DataFrame(segments)[["key", "segment", "start_s", "duration_s"]]
        choice(frame, frame["key"].tolist(), f"segments {address} {row['source']}")


def show_players_and_picture(settings: Settings, address: str, shard: str, key: str, side: str = "") -> None:
    """Show a sample's sound, mel and codes; `side` tells two of them on one page apart."""
    _players(settings, address, shard, key)
    with errors_shown():
        _pictures(settings, address, shard, key, side)


def _players(settings: Settings, address: str, shard: str, key: str) -> None:
    n_codebooks = info(address).codec["codebooks"]
    depths = [2**i for i in range(n_codebooks.bit_length()) if 2**i < n_codebooks] + [n_codebooks]
    boxes = st.columns(1 + len(depths))
    boxes[0].caption("original")
    with boxes[0], errors_shown():
        wav = original(address, shard, key)
        if wav is None:
            st.text("not where it was")
        else:
            st.audio(wav)
    with errors_shown():
        for box, depth in zip(boxes[1:], depths, strict=True):
            wav = decoded(address, shard, key, depth, settings.codec_weights)
            box.caption(f"{depth} codebook{'s' if depth > 1 else ''}")
            box.audio(wav)


def _pictures(settings: Settings, address: str, shard: str, key: str, side: str) -> None:
    variants = info(address).mel["variants"]
    variant = st.selectbox("mel of", variants, key=f"variant {address} {side}") if len(variants) > 1 else variants[0]
    codes, mel = arrays(address, shard, key, variant)
    whole_s = codes.shape[1] / FRAME_RATE
    first, last = 0.0, min(whole_s, _LONGEST_S)
    if whole_s > 1:
        first, last = st.slider("seconds", 0.0, whole_s, (first, last), key=f"seconds {address} {key} {side}")
    frames = slice(round(first * FRAME_RATE), max(round(first * FRAME_RATE) + 1, round(last * FRAME_RATE)))
    curves = {}
    for run in settings.runs:
        nats = surprise(address, shard, key, run)
        if nats is not None:
            curves[run] = nats[frames]
    example = Example(codes[:, frames], mel[frames], FRAME_RATE, first, curves)
    st.pyplot(sample_figure(example, "nats per frame"))
