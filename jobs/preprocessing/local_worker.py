"""Make shards in this process, without Ray: for debugging, small jobs and tests (`--workers 0`)."""

from collections.abc import Callable, Generator

from whisper_gpt.jobs.common.event_log import RunLog
from whisper_gpt.jobs.preprocessing.planning import load_rows
from whisper_gpt.jobs.preprocessing.shard_queue import BuildShards, ShardQueue
from whisper_gpt.pipeline.shards.encoder import load_encoder
from whisper_gpt.pipeline.shards.make import make_shards as make_shards_together
from whisper_gpt.pipeline.shards.task import WorkerSetup


def make_shards(
    queue: ShardQueue, setup: WorkerSetup, log: RunLog, stopped: Callable[[], bool]
) -> Generator[float, None, None]:
    """Do all the work of `queue`; yield the seconds of audio that are done.

    A file that crashes the process ends the run. Raises `KeyboardInterrupt` once `stopped`.
    """
    codec, log_mel = load_encoder(setup)
    while queue:
        work = queue.take()
        assert isinstance(work, BuildShards)  # there are no probes without deaths
        shards = [task.shard for task in work.tasks]
        log.write("begun", shard=shards[0])
        published, rows = 0, [(task, load_rows(setup.job, task)) for task in work.tasks]
        for progress in make_shards_together(setup.job, rows, codec, log_mel):
            if stopped():
                raise KeyboardInterrupt
            if progress.published > published:
                log.write("done", shard=shards[published])
                published = progress.published
                if published < len(shards):
                    log.write("begun", shard=shards[published])
            yield progress.seconds
        queue.done(work)
