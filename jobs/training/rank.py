"""What one rank of a run does from its start to its end, be it the only one or one of several."""

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
    """Train from the newest checkpoint, or anew where none was made yet → whether the run is done, not stopped.

    The leader shows it on `console`, and for the length of the training asks what `watch` gives whether to stop.
    """
    if config.deterministic:
        make_deterministic()
    is_bf16 = choose_precision(config.precision, ranks.device) == "bf16"
    # The leader's choice, for all ranks and for a resume on another machine.
    config = replace(config, precision="bf16" if ranks.of_leader([float(is_bf16)])[0] else "fp32")
    resume = bool(ranks.of_leader([float(bool(checkpoints(config.out)))])[0])
    session = open_session(config, ranks, resume, console.print)
    with contextlib.closing(session):
        if not ranks.leads:
            return train(session, None, lambda: False)
        save_config(config, config.out / CONFIG_FILE, without=["resume"])
        with watch as stopped, monitor(session, console) as shown:
            return train(session, shown, stopped)
