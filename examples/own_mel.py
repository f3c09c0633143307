"""Write another spectrogram beside the codes: usage: own_mel.py DATASET SPLIT OUT.

Each sample's codes are decoded, a constant-Q transform is taken of the audio, and both are written to WebDataset tars:
frame t of the transform is centred on the 320 samples of code t, so unlike the toolkit's mel it sees the future.
"""

import sys
from pathlib import Path

import librosa
import numpy as np
import webdataset as wds

from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.inference.run_folder import trained_on
from whisper_gpt.manifests.dataset_info import read_info


def write(dataset: Path, split: str, out: Path) -> int:
    """Write the tars of one split to the folder `out`; return the number of samples."""
    codec = codec_of(dataset, trained_on(read_info(dataset)), weights=None)
    out.mkdir(parents=True, exist_ok=True)
    tars, count = sorted(map(str, (dataset / split).glob("*.tar"))), 0
    with wds.ShardWriter(str(out / f"{split}-%06d.tar"), maxsize=1e8, verbose=0) as writer:
        for sample in wds.WebDataset(tars, shardshuffle=False).decode():
            codes = sample["codes.npy"]
            wav = codec.decode(codes.astype(np.int64))
            shifted = np.pad(wav[160:], (0, 160))  # librosa centres frame t on sample 320 · t
            cqt = np.abs(librosa.cqt(shifted, sr=24_000, hop_length=320, n_bins=72))  # [72, T + 1]
            frames = cqt.T[: codes.shape[1]].astype(np.float16)
            writer.write({"__key__": sample["__key__"], "codes.npy": codes, "cqt.npy": frames})
            count += 1
    return count


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])), "samples")
