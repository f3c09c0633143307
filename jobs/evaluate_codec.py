"""How well a codec reproduces recordings at each bitrate, beside two controls, and how it uses its codebooks."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from whisper_gpt.jobs.errors import JobError, require
from whisper_gpt.jobs.progress import status_console
from whisper_gpt.manifests.statistics import code_usage
from whisper_gpt.pipeline.audio import SAMPLE_RATE, read_mono
from whisper_gpt.pipeline.codec.architecture import architecture_of
from whisper_gpt.pipeline.codec.causal import untrained_codec
from whisper_gpt.pipeline.codec.loading import load_codec
from whisper_gpt.pipeline.codec.quality import Distances, bitrate_kbps, distances, reconstructions, shifted
from whisper_gpt.pipeline.codec.quantizer import code_counts
from whisper_gpt.pipeline.corpora import folder
from whisper_gpt.pipeline.errors import AudioError

# A recording is scored in pieces of up to this long; ones shorter than the longest spectral window are left out.
_PIECE_S = 30
_SHORTEST_SAMPLES = 4096


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt evaluate-codec`."""

    audio: Positional[Path]
    """Folder of recordings that the codec was not trained on."""
    codec: str = "encodec_24khz"
    """As for preprocess."""
    codec_weights: Path | None = None
    """As for preprocess."""
    codebooks: int = 8
    """Codebooks to load."""
    only: tuple[str, ...] = ()
    """Only files whose path matches one of these patterns (as */dev-clean/*)."""
    minutes: float = 10.0
    """Score so much, of recordings drawn from all over the folder."""
    json: bool = False
    """Print JSON instead of tables."""


def run(config: Config) -> int:
    """Score and print → exit code 0."""
    require(config.minutes > 0, f"--minutes {config.minutes}: must be above zero")
    codec = load_codec(config.codec, config.codec_weights, config.codebooks)
    console = status_console()
    pieces = list(_pieces(config, console))
    if not pieces:
        which = f" that matches {' '.join(config.only)}" if config.only else ""
        raise JobError(
            f"{config.audio}: no recording{which} of at least {_SHORTEST_SAMPLES / SAMPLE_RATE:.2f} s to score"
        )
    rows = {"shifted 0.5 s": distances(pieces, shifted(pieces))}
    untrained = untrained_codec(architecture_of(codec.net), codec.codebooks)
    untrained_codes = [untrained.encode(piece) for piece in pieces]
    rows["untrained"] = distances(pieces, reconstructions(untrained, pieces, untrained_codes))
    codes = [codec.encode(piece) for piece in pieces]
    for depth in _depths(codec.codebooks):
        label = f"{bitrate_kbps(codec, depth):g} kbps · {depth}"
        rows[label] = distances(pieces, reconstructions(codec, pieces, [own[:depth] for own in codes]))
    uses = code_usage(code_counts(np.concatenate(codes, axis=1), codec.codebook_size))
    seconds = sum(map(len, pieces)) / SAMPLE_RATE
    if config.json:
        used = [{"share": use.share, "entropy_bits": use.entropy_bits} for use in uses]
        content = {name: asdict(row) for name, row in rows.items()}
        print(json.dumps({"seconds": seconds, "distances": content, "codebooks": used}))
        return 0
    out = Console(highlight=False)
    out.print(f"{codec.name} on {seconds:.0f} s of {config.audio}")
    out.print(_distance_table(rows))
    table = Table("codebook", "in use", f"entropy, of {np.log2(codec.codebook_size):g} bits")
    for use in uses:
        table.add_row(str(use.codebook), f"{use.share:.1%}", f"{use.entropy_bits:.2f}")
    out.print(table)
    return 0


def _distance_table(rows: dict[str, Distances]) -> Table:
    control = next(iter(rows.values()))
    table = Table("kbps · codebooks", "log-mel distance", "of the shifted one's", "SI-SDR, dB")
    for name, row in rows.items():
        share = row.log_mel / control.log_mel
        table.add_row(name, f"{row.log_mel:.4f}", f"{share:.3f}", f"{row.si_sdr_db:.2f}")
    return table


def _depths(codebooks: int) -> list[int]:
    """Powers of two, and all."""
    return sorted({2**i for i in range(codebooks.bit_length()) if 2**i <= codebooks} | {codebooks})


def _pieces(config: Config, console: Console) -> Iterator[np.ndarray]:
    """Pieces of recordings, in an order drawn once and for all, until there are enough minutes."""
    paths = [(config.audio / recording.path).absolute() for recording in folder.scan(config.audio).recordings]
    if config.only:
        paths = [path for path in paths if folder.matches(path, config.only)]
    have = 0
    for i in np.random.default_rng(0).permutation(len(paths)):
        try:
            wav = read_mono(paths[i])
        except AudioError as error:
            console.print(f"left out {paths[i]}: {error}")
            continue
        for start in range(0, len(wav), _PIECE_S * SAMPLE_RATE):
            piece = wav[start : start + _PIECE_S * SAMPLE_RATE]
            if len(piece) >= _SHORTEST_SAMPLES:
                yield piece
                have += len(piece)
            if have >= config.minutes * 60 * SAMPLE_RATE:
                return
