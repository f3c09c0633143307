"""Recordings of a dataset for models to continue: their codes and mel, their decoding, and their original audio."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.continuation import Continuations, Prompt
from whisper_gpt.jobs.inference.generation_scores import Continued
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import Location
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.corpora.original import read_original
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.frames import FRAME_RATE, HOP_SAMPLES
from whisper_gpt.pipeline.loading.stream import whole_split


@dataclass(frozen=True)
class Lengths:
    """Frames of a prompt and of what follows it."""

    prompt: int
    continuation: int

    @classmethod
    def of_seconds(cls, prompt_s: float, seconds: float) -> "Lengths":
        """Return the lengths in whole frames."""
        return cls(round(prompt_s * FRAME_RATE), round(seconds * FRAME_RATE))

    @property
    def total(self) -> int:
        return self.prompt + self.continuation


@dataclass(frozen=True)
class HeldOut:
    """The first frames of a sample: its key, codes int64 `[K, n]` and log-mel `[n, M]`."""

    key: str
    codes: torch.Tensor
    mel: torch.Tensor


def held_out(dataset: Location, split: str, count: int, lengths: Lengths, mel_variant: str) -> Iterator[HeldOut]:
    """Yield the first window of each of `count` samples of a split that are long enough."""
    seen: set[str] = set()
    for batch in whole_split(dataset, split, lengths.total, 1, mel_variant):
        ((key,),) = batch.keys
        if len(seen) == count:
            return
        if key not in seen and bool(batch.mask[0].all()) and batch.mask.shape[1] == lengths.total:
            seen.add(key)
            yield HeldOut(key, batch.codes[0], batch.mel[0])


def decoded(codec: Codec, recording: HeldOut, n_codebooks: int, lengths: Lengths) -> Continued:
    """Return what really followed the prompt, decoded from its codes."""
    codes = recording.codes[:n_codebooks].numpy()
    return _cut(codes, codec.decode(codes), lengths)


def originals(
    dataset: Location, split: str, recordings: list[HeldOut], corpus: Location, lengths: Lengths
) -> Iterator[Continued]:
    """Yield what really followed the prompt, from the audio files of the `corpus`.

    Raises `JobError` if a file is missing or is not audio.
    """
    columns = ["key", "source", "start_s", "extra"]
    rows = {row["key"]: row for row in read_samples(dataset, split, columns).to_pylist()}
    for recording in recordings:
        row = rows[recording.key]
        try:
            wav = read_original(corpus, row, lengths.total * HOP_SAMPLES)
        except (OSError, AudioError) as error:
            raise JobError(f"--source {corpus}: {row['source']}: {error}") from error
        yield _cut(recording.codes.numpy(), wav, lengths)


def continued(
    model: HybridLM,
    codec: Codec,
    log_mel: LogMel,
    recordings: list[HeldOut],
    sampling: Sampling,
    lengths: Lengths,
    seeds: range,
) -> list[Continued]:
    """Let a model continue the prompts of `recordings` side by side, each with its own seed."""
    n_codebooks = model.config.output_codebooks
    prompts = [Prompt(r.codes[:n_codebooks, : lengths.prompt], r.mel[: lengths.prompt]) for r in recordings]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    generated = Continuations(model, codec, log_mel, prompts, sampling, "decode", generators)
    codes, wavs = [], []
    for _ in range(lengths.continuation):
        wavs.append(generated.step())
        codes.append(generated.codes[:, 0, -1])
    clips = zip(torch.stack(codes, dim=1).numpy(), torch.cat(wavs, dim=1).numpy(), strict=True)
    return [Continued(*clip, prompt) for clip, prompt in zip(clips, generated.prompt_audio.numpy(), strict=True)]


def _cut(codes: np.ndarray, wav: np.ndarray, lengths: Lengths) -> Continued:
    samples = lengths.prompt * HOP_SAMPLES
    return Continued(codes[0, lengths.prompt :], wav[samples:], wav[:samples])
