"""Measure how well a codec reconstructs recordings at each bitrate, with two controls, and its codebook usage."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from whisper_gpt.jobs.codec.judging import Figure, Judges, Reference, Scores, Share, figure_text, judged
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.progress import progress_line, status_console
from whisper_gpt.manifests.statistics import code_usage
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec.architecture import architecture_of
from whisper_gpt.pipeline.codec.causal import Codec, untrained_codec
from whisper_gpt.pipeline.codec.loading import load_codec
from whisper_gpt.pipeline.codec.quality import bitrate_kbps, distances, peak_ratio, reconstructions, shifted
from whisper_gpt.pipeline.codec.quantizer import code_counts
from whisper_gpt.pipeline.corpora import folder
from whisper_gpt.pipeline.corpora.librispeech import transcript
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.judge.packages import INSTALL, missing_packages

# Recordings are scored in pieces of this length; pieces shorter than the longest spectral window are skipped.
_PIECE_S = 30
_SHORTEST_SAMPLES = 4096
# A metric in the table: label, decimals, factor.
_METRICS = {
    "dnsmos_overall": ("DNSMOS P.835 overall, 1–5", 2, 1),
    "dnsmos_signal": ("  signal", 2, 1),
    "dnsmos_background": ("  background", 2, 1),
    "dnsmos_p808": ("DNSMOS P.808, 1–5", 2, 1),
    "wer": ("word errors, %", 1, 100),
    "voice_similarity": ("voice similarity, cosine", 3, 1),
    "halves_similarity": ("  of the original's halves", 3, 1),
    "pesq": ("PESQ wide-band, 1–4.64", 2, 1),
    "stoi": ("STOI, to 1", 3, 1),
}


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt evaluate-codec`."""

    audio: Positional[Path]
    """Folder of recordings that the codec was not trained on."""
    codec: str = "encodec_24khz"
    """Codec to evaluate: encodec_24khz, encodec_24khz_small, encodec_24khz_medium, or the .safetensors file of a codec
    trained here."""
    codec_weights: Path | None = None
    """File with encodec_24khz's official weights, if they are not found without it (as for preprocess)."""
    codebooks: int = 8
    """Number of codebooks to load."""
    only: tuple[str, ...] = ()
    """Use only files whose path matches one of these patterns (such as */dev-clean/*)."""
    minutes: float = 10.0
    """Minutes of audio to score, from recordings drawn at random from the folder."""
    judge: Judges = "fast"
    """Speech metrics, which need the extra `judge`: none (for music), fast (DNSMOS, speaker similarity, PESQ, STOI;
    about 45 s of CPU time per minute of audio with 8 codebooks), or all (also the word error rate of a recognizer if
    there are LibriSpeech transcripts; 2 more minutes per minute). On a busy machine OMP_NUM_THREADS=1 is much
    faster."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(frozen=True)
class _Piece:
    """A recording, or up to 30 s of a long one; `recording` is its number."""

    recording: int
    reference: Reference

    @property
    def wav(self) -> np.ndarray:
        return self.reference.wav


def run(config: Config) -> int:
    """Score and print; return exit code 0."""
    require(config.minutes > 0, f"--minutes {config.minutes}: must be above zero")
    codec = load_codec(config.codec, config.codec_weights, config.codebooks)
    console = status_console()
    pieces = list(_pieces(config, console))
    if not pieces:
        which = f" that matches {' '.join(config.only)}" if config.only else ""
        raise JobError(
            f"{config.audio}: no recording{which} of at least {_SHORTEST_SAMPLES / SAMPLE_RATE:.2f} s to score"
        )
    missing = missing_packages() if config.judge != "none" else []
    if missing:
        console.print(f"skipped metrics of packages that are missing: {', '.join(missing)}; to install them: {INSTALL}")
    wavs = [piece.wav for piece in pieces]
    codes = [codec.encode(wav) for wav in wavs]
    rows = _rows(codec, pieces, codes, config.judge, console)
    uses = code_usage(code_counts(np.concatenate(codes, axis=1), codec.codebook_size))
    seconds = sum(map(len, wavs)) / SAMPLE_RATE
    if config.json:
        usage = [{"share": use.share, "entropy_bits": use.entropy_bits} for use in uses]
        figures = {name: {metric: asdict(figure) for metric, figure in row.items()} for name, row in rows.items()}
        print(json.dumps({"seconds": seconds, "figures": figures, "codebooks": usage, "missing_packages": missing}))
        return 0
    out = Console(highlight=False)
    count = len({piece.recording for piece in pieces})
    out.print(f"{codec.name} on {seconds:.0f} s of {config.audio}, {count} recordings; ± is half of a 95 % interval")
    out.print(_distance_table(rows))
    if any(name in figures for figures in rows.values() for name in _METRICS):
        out.print(_judge_table(rows))
    table = Table("codebook", "in use", f"entropy, of {np.log2(codec.codebook_size):g} bits")
    for use in uses:
        table.add_row(str(use.codebook), f"{use.share:.1%}", f"{use.entropy_bits:.2f}")
    out.print(table)
    return 0


def _rows(
    codec: Codec, pieces: Sequence[_Piece], codes: Sequence[np.ndarray], judges: Judges, console: Console
) -> dict[str, dict[str, Figure]]:
    """Return the figures of the originals, two controls, and each number of codebooks. The controls get no speech
    metrics: one sounds like the originals, the other is noise."""
    wavs = [piece.wav for piece in pieces]
    untrained = untrained_codec(architecture_of(codec.net), codec.codebooks)
    depths = {f"{bitrate_kbps(codec, depth):g} kbps · {depth}": depth for depth in _depths(codec.codebooks)}
    versions: dict[str, Callable[[], Sequence[np.ndarray]]] = {
        "original": lambda: wavs,
        "shifted 0.5 s": lambda: shifted(wavs),
        "untrained": lambda: reconstructions(untrained, wavs, [untrained.encode(wav) for wav in wavs]),
        **{name: partial(_decoded, codec, wavs, codes, depth) for name, depth in depths.items()},
    }
    unjudged = ("shifted 0.5 s", "untrained")
    figures, started = {}, time.monotonic()
    with progress_line(console, len(versions) * len(pieces)) as show:
        for done, (name, make) in enumerate(versions.items()):
            scores = Scores()
            for i, (piece, wav) in enumerate(zip(pieces, make(), strict=True), start=done * len(pieces)):
                show(i, f"{name}, recording {piece.recording}", _eta(started, i / (len(versions) * len(pieces))))
                scores.add(piece.recording, _distances(piece.wav, wav))
                scores.add(piece.recording, judged(wav, piece.reference, "none" if name in unjudged else judges))
            figures[name] = scores.figures()
    return figures


def _decoded(codec: Codec, wavs: Sequence[np.ndarray], codes: Sequence[np.ndarray], depth: int) -> list[np.ndarray]:
    return reconstructions(codec, wavs, [all_codes[:depth] for all_codes in codes])


def _distances(original: np.ndarray, wav: np.ndarray) -> dict[str, Share]:
    """Return the metrics for any audio: log-mel distance, peak ratio, and SI-SDR unless `wav` is the original."""
    result = distances([original], [wav])
    shares = {"log_mel": Share(result.log_mel), "peak_ratio": Share(peak_ratio(original, wav))}
    if wav is not original:
        shares["si_sdr_db"] = Share(result.si_sdr_db)
    return shares


def _distance_table(rows: dict[str, dict[str, Figure]]) -> Table:
    control = rows["shifted 0.5 s"]["log_mel"].mean
    table = Table("kbps · codebooks", "log-mel distance", "relative to shifted", "SI-SDR, dB", "largest peak ratio")
    for name, row in rows.items():
        log_mel, si_sdr, peak = row["log_mel"].mean, row.get("si_sdr_db"), row.get("peak_ratio")
        table.add_row(
            name,
            f"{log_mel:.4f}",
            f"{log_mel / control:.3f}",
            f"{si_sdr.mean:.2f}" if si_sdr else "–",
            f"{peak.largest:.2f}" if peak else "–",
        )
    return table


def _judge_table(rows: dict[str, dict[str, Figure]]) -> Table:
    judged_rows = {name: row for name, row in rows.items() if any(metric in row for metric in _METRICS)}
    table = Table("metric", *judged_rows, "recordings")
    for metric, (label, digits, factor) in _METRICS.items():
        cells = [row.get(metric) for row in judged_rows.values()]
        counts = [cell.recordings for cell in cells if cell]
        if counts:
            table.add_row(label, *(figure_text(cell, digits, factor) for cell in cells), str(min(counts)))
    return table


def _depths(codebooks: int) -> list[int]:
    """Numbers of codebooks to score: powers of two, and all."""
    return sorted({2**i for i in range(codebooks.bit_length()) if 2**i <= codebooks} | {codebooks})


def _eta(started: float, share: float) -> float:
    return (time.monotonic() - started) * (1 / share - 1) if share else 0.0


def _pieces(config: Config, console: Console) -> Iterator[_Piece]:
    """Yield pieces of recordings, in a fixed random order, until there are enough minutes."""
    scan = folder.scan(config.audio)
    for warning in scan.warnings:
        console.print(f"warning: {warning}")
    paths = [(config.audio / recording.path).absolute() for recording in scan.recordings]
    if config.only:
        paths = [path for path in paths if folder.matches(path, config.only)]
    samples = 0
    for i in np.random.default_rng(0).permutation(len(paths)):
        try:
            wav = read_mono(paths[i])
        except AudioError as error:
            console.print(f"skipped {paths[i]}: {error}")
            continue
        # A transcript covers the whole recording, so it is no use for pieces of one.
        text = transcript(paths[i]) if len(wav) <= _PIECE_S * SAMPLE_RATE else ""
        for start in range(0, len(wav), _PIECE_S * SAMPLE_RATE):
            piece = wav[start : start + _PIECE_S * SAMPLE_RATE]
            if len(piece) >= _SHORTEST_SAMPLES:
                yield _Piece(int(i), Reference(piece, text))
                samples += len(piece)
            if samples >= config.minutes * 60 * SAMPLE_RATE:
                return
