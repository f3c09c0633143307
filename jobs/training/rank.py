"""What one rank of a training run does, alone or among several."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from whisper_gpt.jobs.common.config_files import save_config
from whisper_gpt.jobs.inference.run_folder import checkpoints
from whisper_gpt.jobs.training.config import CONFIG_FILE, Config
from whisper_gpt.jobs.training.distributed import Ranks, choose_precision, make_deterministic
from whisper_gpt.jobs.training.loop import train
from whisper_gpt.jobs.training.monitor import monitor
from whisper_gpt.jobs.training.session import open_session


def train_rank(
    config: Config,
    ranks: Ranks,
    console: Console,
    watch: contextlib.AbstractContextManager[Callable[[], bool]],
) -> bool:
    """Train from the newest checkpoint, or from scratch; return True if the run is done, False if it was stopped.

    Rank 0 logs to `console`; while it trains, it polls the function that `watch` yields whether to stop.
    """
    if config.deterministic:
        make_deterministic()
    is_bf16 = choose_precision(config.precision, ranks.device) == "bf16"
    # Rank 0 decides, for all ranks and for a resume on another machine.
    config = replace(config, precision="bf16" if ranks.broadcast([float(is_bf16)])[0] else "fp32")
    resume = bool(ranks.broadcast([float(bool(checkpoints(config.out)))])[0])
    session = open_session(config, ranks, resume, console.print)
    with contextlib.closing(session):
        if not ranks.is_main:
            return train(session, None, lambda: False)
        save_config(config, config.out / CONFIG_FILE, without=["resume"])
        with watch as stopped, monitor(session, console) as rank_monitor:
            return train(session, rank_monitor, stopped)
