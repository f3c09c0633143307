"""One step of `bench scale` in a process of its own: it prints seconds and the peak memory in MB as JSON."""

import json
import resource
import sys
import time
from pathlib import Path

from whisper_gpt.jobs.benchmarks import made_corpus
from whisper_gpt.jobs.benchmarks.timing import peak_mb
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.preprocessing.planning import shard_tasks
from whisper_gpt.manifests.fragments import committed_shards
from whisper_gpt.pipeline.loading.stream import StreamConfig, WindowOrder, open_split


def plan(dataset: Path, corpus: str, count: int) -> None:
    """Scan a made listing and plan a new dataset, but read no header."""
    made_corpus.plan(dataset, corpus, count)


def make(dataset: Path, corpus: str, count: int) -> None:
    """Write the shards' manifests."""
    made_corpus.make_shards(dataset)


def finish(dataset: Path, corpus: str, count: int) -> None:
    """Write the description and the indexes of a dataset whose shards are complete."""
    made_corpus.finish(dataset, corpus)


def resume(dataset: Path, corpus: str, count: int) -> None:
    """Find out that nothing is left to do: compare listing and plan, and check every shard's fragment and length."""
    parts = made_corpus.plan(dataset, corpus, count)
    if missing := shard_tasks(parts, committed_shards(dataset, [part.sha256 for part in parts])):
        raise JobError(f"{dataset}: {len(missing)} shards are missing")


def rank(dataset: Path, corpus: str, count: int) -> None:
    """Open the training split as a rank does, and choose the windows of the first batch."""
    config = StreamConfig(context=512, batch=16, pack=True)
    tables, _, _ = open_split(dataset, "train", config)
    order = WindowOrder(tables, [1.0], config)
    order.reset(None)
    order.next()


STEPS = {"plan": plan, "make": make, "finish": finish, "resume": resume, "rank": rank}


def main(step: str, dataset: str, corpus: str, count: str) -> None:
    """Run a step and print what it took, without the start of Python and its imports."""
    begun = time.monotonic()
    STEPS[step](Path(dataset), corpus, int(count))
    print(json.dumps({"s": time.monotonic() - begun, "mb": peak_mb(resource.getrusage(resource.RUSAGE_SELF))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
