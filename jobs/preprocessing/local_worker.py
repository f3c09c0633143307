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
        log.write("begun", shard=work.tasks[0].shard)
        published, rows = 0, [(task, load_rows(setup.job, task)) for task in work.tasks]
        for progress in make_shards_together(setup.job, rows, codec, log_mel):
            if stopped():
                raise KeyboardInterrupt
            work.log_published(log, published, progress.published)
            published = progress.published
            yield progress.seconds
        queue.done(work)
