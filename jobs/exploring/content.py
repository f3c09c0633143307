"""What is read of samples and runs, kept by Streamlit between runs of the page: arrays, audio, models."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from whisper_gpt.jobs.common.wav import wav_bytes
from whisper_gpt.jobs.exploring.manifest import info, source
from whisper_gpt.jobs.exploring.settings import dataset_at
from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.inference.run_folder import TrainingState, load_run, trained_on
from whisper_gpt.manifests.fragments import fragment_path, read_fragment
from whisper_gpt.manifests.location import is_file
from whisper_gpt.model.language_model import LanguageModel
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.corpora.original import read_original
from whisper_gpt.pipeline.loading.shard_reader import ShardReader

_KEPT_SAMPLES = 50


@st.cache_resource(show_spinner="Loading the codec")
def codec(address: str, weights: str) -> Codec:
    """Load the codec of a dataset."""
    file = Path(weights) if weights else None
    return codec_of(dataset_at(address), trained_on(info(address)), file, download=False)


@st.cache_resource(max_entries=4, show_spinner="Loading the model")
def checkpoint(folder: str) -> tuple[LanguageModel, TrainingState]:
    """Load the model of a checkpoint."""
    return load_run(Path(folder))


@st.cache_data(max_entries=_KEPT_SAMPLES, show_spinner=False)
def manifest_row(address: str, shard: str, key: str) -> dict[str, Any]:
    """Return a sample's row of the manifest, with its places in the tar and its hashes."""
    _, samples = read_fragment(fragment_path(dataset_at(address), shard))
    return samples.filter(pc.field("key") == key).to_pylist()[0]


@st.cache_data(max_entries=_KEPT_SAMPLES, show_spinner=False)
def arrays(address: str, shard: str, key: str, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes int16 `[K, T]` of a sample and a variant of its mel float16 `[T, M]`."""
    row, variants = manifest_row(address, shard, key), info(address).mel["variants"]
    reader = ShardReader(dataset_at(address), pa.Table.from_pylist([row]), None, variants.index(variant), len(variants))
    return reader.read(0, 0, row["frames"])


@st.cache_data(max_entries=_KEPT_SAMPLES, show_spinner="Decoding")
def decoded(address: str, shard: str, key: str, n_codebooks: int, weights: str) -> bytes:
    """Return a sample's first codebooks, decoded, as a WAV file."""
    codes, _ = arrays(address, shard, key, info(address).mel["variants"][0])
    samples = manifest_row(address, shard, key)["samples"]
    return wav_bytes(codec(address, weights).decode(codes[:n_codebooks].astype(np.int64))[:samples])


@st.cache_data(max_entries=_KEPT_SAMPLES, show_spinner="Reading the original")
def original(address: str, shard: str, key: str) -> bytes | None:
    """Return what a sample was made from as a WAV file, or None if the corpus is not where it was."""
    row, corpus = manifest_row(address, shard, key), source(address)
    if corpus is None or not is_file(corpus / row["source"]):
        return None
    return wav_bytes(read_original(corpus, row, row["samples"]))
