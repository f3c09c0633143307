"""Make shards in this process, without Ray: for debugging, small jobs and tests (`--workers 0`)."""

from collections.abc import Callable, Generator

from whisper_gpt.jobs.common.event_log import RunLog
from whisper_gpt.jobs.preprocessing.planning import load_rows
from whisper_gpt.jobs.preprocessing.shard_queue import ShardQueue
from whisper_gpt.pipeline.shards.encoder import load_encoder
from whisper_gpt.pipeline.shards.make import make_shard
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
        log.write("begun", shard=work.task.shard)
        for seconds in make_shard(setup.job, work.task, load_rows(setup.job, work.task), codec, log_mel):
            if stopped():
                raise KeyboardInterrupt
            yield seconds
        queue.done(work)
        log.write("done", shard=work.task.shard)
