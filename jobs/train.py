"""Train a hybrid or a token-only model on datasets; --resume continues a stopped run."""

from whisper_gpt.jobs.common.config_files import resume_with_saved_options
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.common.signals import stop_signals
from whisper_gpt.jobs.inference.run_folder import checkpoints, newest_checkpoint
from whisper_gpt.jobs.training.config import CONFIG_FILE, Config, check, with_own_model
from whisper_gpt.jobs.training.distributed import single_process
from whisper_gpt.jobs.training.rank import train_rank


def with_saved_options(arguments: list[str]) -> list[str]:
    """With --resume, use the run's saved options as defaults."""
    return resume_with_saved_options(arguments, CONFIG_FILE)


def run(config: Config) -> int:
    """Train, with checkpoints, TensorBoard and a progress bar; return exit code 0."""
    check(config)
    if not config.resume and checkpoints(config.out):
        raise JobError(f"{config.out} holds a training run; pass --resume to continue it, or another --out")
    console = status_console()
    with output_lock(config.out):
        config = with_own_model(config)
        if config.workers > 1 or config.ray_address:
            from whisper_gpt.jobs.training.ray_train import train_on_cluster

            finished = train_on_cluster(config, console)
        else:
            finished = train_rank(config, single_process(config.device), console, stop_signals())
    console.print(f"{newest_checkpoint(config.out)}")
    if not finished:
        raise JobError(f"stopped by a signal; to continue: whisper-gpt train --out {config.out} --resume")
    return 0
