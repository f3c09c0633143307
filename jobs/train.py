"""Train a hybrid or a token-only model from datasets' shards; --resume goes on where a run stopped."""

import contextlib

from jobs.config_files import resume_with_saved_options, save_config
from jobs.errors import JobError
from jobs.output_lock import output_lock
from jobs.progress import status_console
from jobs.stop_signals import stop_signals
from jobs.training.checkpoints import checkpoints, newest_checkpoint
from jobs.training.config import CONFIG_FILE, Config, check
from jobs.training.loop import train
from jobs.training.monitor import monitor
from jobs.training.ranks import alone, make_deterministic
from jobs.training.session import open_session


def with_saved_options(arguments: list[str]) -> list[str]:
    """With --resume, the options that the run was started with are the defaults of those on the line."""
    return resume_with_saved_options(arguments, CONFIG_FILE)


def run(config: Config) -> int:
    """Train, with checkpoints, TensorBoard and a progress bar → exit code 0."""
    check(config)
    if not config.resume and checkpoints(config.out):
        raise JobError(f"{config.out} holds a training run; pass --resume to go on with it, or another --out")
    console = status_console()
    with output_lock(config.out):
        if config.workers > 1 or config.ray_address:
            from jobs.training.cluster import train_on_cluster

            finished = train_on_cluster(config, console)
        else:
            finished = _train_here(config)
    console.print(f"{newest_checkpoint(config.out)}")
    if not finished:
        raise JobError(f"stopped by a signal; whisper-gpt train --out {config.out} --resume goes on")
    return 0


def _train_here(config: Config) -> bool:
    console = status_console()
    if config.deterministic:
        make_deterministic()
    resume = bool(checkpoints(config.out))  # a run that was killed before its first one begins anew
    session = open_session(config, alone(config.device), resume, console.print)
    save_config(config, config.out / CONFIG_FILE, without=["resume"])
    with contextlib.closing(session), stop_signals() as stopped, monitor(session, console) as shown:
        return train(session, shown, stopped)
