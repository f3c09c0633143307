"""Logging of a run: console, progress bar, TensorBoard, MFU."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from whisper_gpt.jobs.common.curves import curves
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.progress import ShowStep, training_progress
from whisper_gpt.jobs.inference.scoring import Score
from whisper_gpt.jobs.training.clip_process import ClipProcess
from whisper_gpt.jobs.training.clips import Clip, Clips, open_clips
from whisper_gpt.jobs.training.peak_flops import matrix_flops
from whisper_gpt.jobs.training.session import Session
from whisper_gpt.jobs.training.signatures import CodeSpread, Withheld, code_spread, withheld
from whisper_gpt.jobs.training.step import StepResult
from whisper_gpt.model.cost import peak_flops, training_flops
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.stream import batches


@dataclass
class Clock:
    """Time of a run in seconds: before this process resumed it, in its steps, and of that waiting for data."""

    before_s: float
    started: float = field(default_factory=time.monotonic)
    stepping_s: float = 0.0
    waiting_s: float = 0.0

    @property
    def elapsed_s(self) -> float:
        """Time of the whole run so far, with that before this process."""
        return self.before_s + time.monotonic() - self.started

    @property
    def wait_share(self) -> float:
        """Share of the steps' time that was spent waiting for data."""
        return self.waiting_s / max(self.stepping_s, 1e-9)


class Monitor:
    """Logs a session; only rank 0 has one."""

    def __init__(self, session: Session, console: Console, writer: SummaryWriter, show: ShowStep):
        self._session = session
        self._console = console
        self._writer = writer
        self._show = show
        self._clips = self._find_clips()
        self._generating: ClipProcess | None = None
        self._warned: set[str] = set()
        model = session.model
        self._flops = training_flops(model.config, model.parameter_count())
        self._peak = self._find_peak()
        peak = f", {self._peak / 1e9:,.0f} GFLOP/s peak" if self._peak else ""
        console.print(
            f"{model.config.name}: {model.parameter_count() / 1e6:.2f} M parameters, "
            f"{self._flops / 1e6:.0f} MFLOP per training token{peak}"
        )
        if session.validation is None:
            console.print("no validation split in the data: overfitting cannot be seen")

    def log(self, text: str) -> None:
        """Print a line."""
        self._console.print(text)

    def step(self, step: int, result: StepResult, rate: float, seconds: float, clock: Clock, eta_s: float) -> None:
        """Log one step, which took `seconds`."""
        tokens_per_s = result.tokens / seconds
        scalars = {
            "train/token_nats": result.token_nats,
            "train/mel_nats": result.mel_nats,
            "train/accuracy": result.accuracy,
            "train/gradient_norm": result.gradient_norm,
            "train/learning_rate": rate,
            "speed/tokens_per_s": tokens_per_s,
            "speed/data_wait_share": clock.wait_share,
        }
        if self._peak:
            scalars["speed/mfu"] = tokens_per_s * self._flops / (self._peak * self._session.ranks.world_size)
        scalars |= {f"train/codebook_{k}_nats": nats for k, nats in enumerate(result.finer_nats, start=1)}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._show(step, result.token_nats, result.accuracy, tokens_per_s, clock.wait_share, eta_s)
        self._log_generated()

    def evaluation(self, step: int, score: Score, stopped: Callable[[], bool]) -> None:
        """Log the validation score and, unless stopped, the signatures of failures and a generated audio sample."""
        for k, nll in enumerate(score.codebook_nll):
            self._writer.add_scalar(f"validation/codebook_{k}/token_nats", nll, step)
        self._writer.add_scalar("validation/bits_per_s", score.bits_per_s, step)
        self._writer.add_scalar("validation/codebook_0/accuracy", score.accuracy, step)
        self._writer.flush()  # a run that is killed now resumes after this point
        finer = "".join(f" {nll:.3f}" for nll in score.codebook_nll[1:])
        bits = f", {score.bits_per_s:,.0f} bits/s" if finer else ""
        self._console.print(f"step {step}: validation {score.nll:.3f}{finer} nats{bits}, accuracy {score.accuracy:.1%}")
        model = self._session.scored_model
        if not isinstance(model, HybridLM) or stopped():
            return
        if model.config.hybrid and model.config.input_codebooks:
            batch = next(iter(batches(self._session.validation)), None)
            if batch is not None:
                self._watch(step, "signature/withheld", withheld(model, batch.to(model.device)))
        if self._clips:
            self._generate(self._clips, model, step)

    def _generate(self, clips: Clips, model: HybridLM, step: int) -> None:
        """Generate and log an audio sample; or start to, if that takes a process, and the last one has ended."""
        if self._generating:
            self._console.print(f"step {step}: no audio sample, as that of step {self._generating.step} is not ready")
            return
        cpu_model = copy.deepcopy(model).cpu().eval()
        if not _generates_in_a_process(model.device):
            self._log_clip(step, clips.make(cpu_model, seed=step))
            return
        try:
            self._generating = ClipProcess(clips, cpu_model, step)
        except OSError as error:
            self._console.print(f"step {step}: no audio sample: {error}")

    def _log_generated(self) -> None:
        """Log the clip that was generated by a process, if it is ready."""
        if self._generating is None or not self._generating.ready():
            return
        process, self._generating = self._generating, None
        clip = process.result()
        if clip is None:
            self._console.print(f"step {process.step}: no audio sample: the process that generated it died")
        else:
            self._log_clip(process.step, clip)

    def _log_clip(self, step: int, clip: Clip) -> None:
        """Log a clip of the model after `step`, and the signature of its codes."""
        assert self._clips is not None
        self._writer.add_audio("clip", torch.from_numpy(clip.wav)[None], step, clip.sample_rate)
        self._writer.add_image("clip/mel", clip.mel.T[::-1], step, dataformats="HW")
        self._watch(step, "signature/codes", code_spread(clip.codes, self._clips.real_codes))

    def _watch(self, step: int, tag: str, signature: Withheld | CodeSpread) -> None:
        """Log a signature's figures, and its warning the first time that there is one."""
        for name, value in asdict(signature).items():
            self._writer.add_scalar(f"{tag}_{name}", value, step)
        warning = signature.warning()
        if warning and tag not in self._warned:
            self._warned.add(tag)
            self._console.print(f"step {step}: warning: {warning}")

    def end(self, left_out: int, stopped: Callable[[], bool]) -> None:
        """Wait for the last audio sample unless stopped, and log what was skipped: `left_out` unreadable samples over
        all ranks (this rank's by name), and steps."""
        while self._generating and not stopped() and not self._generating.ready(timeout_s=0.5):
            pass
        self._log_generated()
        damaged, skipped = self._session.damaged, self._session.state.skipped
        if left_out:
            self._console.print(f"{left_out} damaged samples were skipped: {', '.join(sorted(damaged))}")
        if skipped:
            self._console.print(f"{skipped} steps were skipped: their loss or gradient was out of bounds")

    def close(self) -> None:
        """End the process that generates a clip, if there is one."""
        if self._generating:
            self._generating.close()

    def _find_clips(self) -> Clips | None:
        try:
            return open_clips(self._session)
        except (JobError, PipelineError) as error:
            self._console.print(f"no audio samples will be generated: {error}")
            return None

    def _find_peak(self) -> float | None:
        if self._session.ranks.device.type == "cuda":
            return peak_flops(torch.cuda.get_device_name(self._session.ranks.device))
        return matrix_flops(size=1024)


@contextlib.contextmanager
def monitor(session: Session, console: Console) -> Iterator[Monitor]:
    """Yield a monitor for the length of a run; TensorBoard's curves continue from the session's step."""
    config, first = session.config, session.state.step
    with (
        curves(config.out, first + 1) as writer,
        training_progress(console, config.steps, first) as show,
        contextlib.closing(Monitor(session, console, writer, show)) as opened,
    ):
        yield opened


def _generates_in_a_process(device: torch.device) -> bool:
    """Return whether clips come from a process of their own: on a CPU it would only compete with the training."""
    return device.type == "cuda"
