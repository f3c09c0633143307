"""A dataset card for the Hugging Face hub: what the dataset holds, and which files belong to which split."""

import yaml

from whisper_gpt.manifests.dataset_info import DatasetInfo

_SIZES = (
    (1e3, "n<1K"),
    (1e4, "1K<n<10K"),
    (1e5, "10K<n<100K"),
    (1e6, "100K<n<1M"),
    (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"),
    (1e9, "100M<n<1B"),
)


def card(name: str, info: DatasetInfo, licence: str) -> str:
    """Return the card as Markdown with YAML metadata, as `README.md` of the dataset's folder.

    With it `datasets.load_dataset` finds the splits, of the folder or of a copy on the hub.
    """
    splits = [split for split, totals in info.splits.items() if totals.samples]
    samples = sum(totals.samples for totals in info.splits.values())
    metadata = {
        "pretty_name": name,
        **({"license": licence} if licence else {}),
        "tags": ["audio", "webdataset", "encodec", "whisper-gpt"],
        "size_categories": [next((label for limit, label in _SIZES if samples < limit), "n>1B")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}/*.tar"} for split in splits],
            }
        ],
    }
    codec, mel = info.codec, info.mel
    further = f", `mel_variants.npy` (float16, of {', '.join(mel['variants'][1:])})" if mel["variants"][1:] else ""
    if any(variant.startswith("centred") for variant in mel["variants"]):
        further += " (centred windows see the future: a control, not for training)"
    totals = ((split, info.splits[split]) for split in splits)
    rows = "\n".join(f"| {split} | {total.samples:,} | {total.seconds / 3600:,.3f} |" for split, total in totals)
    rate = codec["sample_rate"] / codec["hop_samples"]
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---

# {name}

Audio of {info.corpus} as EnCodec tokens and causal log-mel frames of the same instants, {rate:g} frames per second,
made by whisper-gpt.

| split | samples | hours |
|---|---|---|
{rows}

Each sample has the members `codes.npy` (int16, {codec["codebooks"]} codebooks of {codec["codebook_size"]} codes),
`mel.npy` (float16, {mel["bands"]} bands of log10 power, window {mel["window_samples"]} samples at
{mel["sample_rate"]} Hz, of {mel["variants"][0]}){further} and `json` (text, speaker, composer, source
and so on). `manifest/` is Parquet with one row per sample.

- codec: {codec["name"]}, weights {codec["weights_sha256"]}
- fingerprint of codec and mel: {info.fingerprint}
- sources that could not be read: {info.failed_sources:,} (in `failures/`)

```python
from datasets import load_dataset

samples = load_dataset("FOLDER OR NAME", split="{splits[0] if splits else "train"}", streaming=True)
```
"""
