"""Training runs: their curves, how much a sample surprises them, and how they continue it."""

from pathlib import Path

import numpy as np
import streamlit as st
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from whisper_gpt.jobs.exploring.content import arrays, checkpoint, codec, wav_bytes
from whisper_gpt.jobs.exploring.manifest import errors_shown, info
from whisper_gpt.jobs.exploring.settings import Settings, dataset_at
from whisper_gpt.jobs.inference.continuation import require_can_continue
from whisper_gpt.jobs.inference.held_out import HeldOut, Lengths, continued
from whisper_gpt.jobs.inference.run_folder import chosen_checkpoint, load_frame_model, require_same_data, trained_on
from whisper_gpt.jobs.inference.scoring import sample_nats
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.frames import FRAME_RATE

_PROMPT_S, _SECONDS = 3.0, 5.0
_CURVES_S = 10  # until they are read again


def show_runs(settings: Settings) -> None:
    """Show the curves of all runs, one chart for each quantity."""
    curves: dict[str, list[dict[str, object]]] = {}
    for run in settings.runs:
        with errors_shown():
            for tag, points in _curves(run).items():
                curves.setdefault(tag, []).extend({"step": s, "value": v, "run": run} for s, v in points)
    if not curves:
        st.info("The runs have no curves: their tensorboard folders are empty.")
        return
    chosen = st.multiselect("curves", sorted(curves), sorted(curves)[:4])
    for tag in chosen:
        st.caption(tag)
        st.line_chart(curves[tag], x="step", y="value", color="run")


def surprise(address: str, shard: str, key: str, run: str) -> np.ndarray | None:
    """Return the NLL of each of a sample's frames under a run's model, in nats `[T]`; None if it does not apply."""
    with errors_shown():
        return _nats(address, shard, key, str(chosen_checkpoint(Path(run), best=False)))
    return None


@st.cache_data(max_entries=50, show_spinner="Scoring")
def _nats(address: str, shard: str, key: str, folder: str) -> np.ndarray:
    language_model, state = checkpoint(folder)
    require_same_data(state.data, trained_on(info(address), state.data.mel_variant), Path(folder), dataset_at(address))
    return sample_nats(language_model, *arrays(address, shard, key, state.data.mel_variant)).sum(axis=1)


def continuation(settings: Settings, address: str, shard: str, key: str, run: str) -> None:
    """Offer to let a run's model continue the sample's first seconds."""
    box, player = st.columns([1, 2], vertical_alignment="center")
    seed = box.number_input("seed", 0, 999, key=f"seed {run} {key}")
    if box.button(f"continue its first {_PROMPT_S:g} s by {_SECONDS:g} s with {run}", key=f"continue {run} {key}"):
        player.audio(
            _continued(
                address, shard, key, str(chosen_checkpoint(Path(run), best=False)), int(seed), settings.codec_weights
            )
        )


@st.cache_data(max_entries=20, show_spinner="Generating")
def _continued(address: str, shard: str, key: str, folder: str, seed: int, weights: str) -> bytes:
    frame_model, state = load_frame_model(Path(folder))
    require_same_data(state.data, trained_on(info(address), state.data.mel_variant), Path(folder), dataset_at(address))
    require_can_continue(Path(folder), frame_model, state.data.mel_variant)
    codes, mel = arrays(address, shard, key, state.data.mel_variant)
    recording = HeldOut(key, torch.tensor(codes).long(), torch.tensor(mel).float())
    lengths = Lengths(min(round(_PROMPT_S * FRAME_RATE), codes.shape[1]), round(_SECONDS * FRAME_RATE))
    log_mel = LogMel(MelConfig(**state.data.mel))
    (clip,) = continued(
        frame_model, codec(address, weights), log_mel, [recording], Sampling(0.95), lengths, range(seed, seed + 1)
    )
    return wav_bytes(np.concatenate([clip.prompt_wav, clip.wav]))


@st.cache_data(ttl=_CURVES_S, show_spinner="Reading the curves")
def _curves(run: str) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(f"{run}/tensorboard", size_guidance={"scalars": 1000})
    events.Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
