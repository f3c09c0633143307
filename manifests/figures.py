"""Pictures of samples (the mel spectrogram, the codes, and curves over their frames), and any picture as a PNG."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Example:
    """A sample, or a part of one, to display: `codes` int `[K, T]`, `mel` `[T, M]`, and named `curves` `[T]`."""

    codes: np.ndarray
    mel: np.ndarray
    frames_per_s: float
    start_s: float = 0.0
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)


def sample_figure(example: Example, curve_label: str = "") -> Figure:
    """Return mel, curves (if there are any) and codes of an example, above each other over the same seconds."""
    heights = (2, 1, 1) if example.curves else (2, 1)
    figure = Figure(figsize=(10, 1.2 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    n_codebooks, frames = example.codes.shape
    first, last = example.start_s, example.start_s + frames / example.frames_per_s
    mel = example.mel.T.astype(np.float32)
    panels[0].imshow(mel, origin="lower", aspect="auto", extent=(first, last, 0, len(mel)), cmap="magma")
    panels[0].set_ylabel("mel band")
    seconds = first + (np.arange(frames) + 0.5) / example.frames_per_s
    for name, values in example.curves.items():
        panels[1].plot(seconds, values, label=name, linewidth=0.8)
    if example.curves:
        panels[1].set_ylabel(curve_label)
        panels[1].legend(loc="upper right", fontsize=7)
    extent = (first, last, n_codebooks, 0)
    panels[-1].imshow(example.codes, aspect="auto", extent=extent, cmap="viridis", interpolation="none")
    panels[-1].set(ylabel="codebook", xlabel="s")
    return figure


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
