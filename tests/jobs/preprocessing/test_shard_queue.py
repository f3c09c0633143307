"""The shard queue: every shard is built, and only sources that crash workers are given up."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.preprocessing.shard_queue import BuildShard, Probe, ShardQueue, Work
from whisper_gpt.pipeline.shards.task import MAX_CRASHES, ShardTask

SOURCES = [f"s{i}" for i in range(11)]


def task(shard: str, seconds: float = 1.0) -> ShardTask:
    return ShardTask("plan.parquet", "p", "train", shard, seconds)


def queue_of(*tasks: ShardTask) -> ShardQueue:
    return ShardQueue(tasks, lambda _: SOURCES, lambda _: None)


def is_poisoned(work: Work, poison: set[str]) -> bool:
    """Whether a worker that does `work` reads one of the `poison` sources."""
    if isinstance(work, Probe):
        return bool(set(work.sources) & poison)
    return bool(poison - set(work.task.given_up))


def test_longest_shard_goes_first() -> None:
    queue = queue_of(task("a", 1), task("b", 3), task("c", 2))
    assert [queue.take().task.shard for _ in range(3)] == ["b", "c", "a"] and not queue


@given(st.sets(st.sampled_from(SOURCES)))
def test_only_crashing_sources_are_given_up(poison: set[str]) -> None:
    queue, built, steps = queue_of(task("a"), task("b")), [], Counter[str]()
    while queue:
        work = queue.take()
        steps[type(work).__name__] += 1
        if is_poisoned(work, poison) and work.task.shard == "a":
            queue.died(work, "killed")
            continue
        queue.done(work)
        built += [work.task] if isinstance(work, BuildShard) else []
    given_up = {built_task.shard: set(built_task.given_up) for built_task in built}
    assert given_up == {"a": poison, "b": set()}
    assert steps["BuildShard"] == 2 + MAX_CRASHES * bool(poison)
    # Bisection, not one by one: one path down per source, and repeated crashes at the end of it.
    assert steps["Probe"] <= 2 * len(SOURCES) + (MAX_CRASHES - 1) * len(poison)


@given(st.lists(st.booleans(), max_size=80))
def test_random_crashes_give_nothing_up(coins: list[bool]) -> None:
    """At most two crashes in a row for any piece of work: everything is built, nothing is given up."""
    queue, deaths, built = queue_of(task("a"), task("b"), task("c")), Counter[Work](), []
    tosses = iter(coins)
    while queue:
        work = queue.take()
        if next(tosses, False) and deaths[work] < MAX_CRASHES - 1:
            deaths[work] += 1
            queue.died(work, "killed")
            continue
        queue.done(work)
        built += [work.task] if isinstance(work, BuildShard) else []
    assert sorted(built_task.shard for built_task in built) == ["a", "b", "c"]
    assert not any(built_task.given_up for built_task in built)


def test_shard_crashing_without_a_crashing_file_is_an_error() -> None:
    queue = queue_of(task("a"))
    with pytest.raises(JobError, match="a: "):
        while queue:
            work = queue.take()
            if isinstance(work, BuildShard):
                queue.died(work, "out of memory")
            else:
                queue.done(work)


def test_returned_work_does_not_count_as_a_crash() -> None:
    queue = queue_of(task("a"))
    for _ in range(10):
        queue.give_back(queue.take())
    work = queue.take()
    assert isinstance(work, BuildShard) and not queue


def test_only_many_lost_nodes_count_as_crashes() -> None:
    queue = queue_of(task("a"))
    for _ in range(10):
        queue.node_lost(queue.take())
    work = queue.take()
    assert isinstance(work, BuildShard) and not queue
    queue.node_lost(work)
    queue.died(queue.take(), "killed")
    queue.died(queue.take(), "killed")
    # From the eleventh on they count, so a file that crashes nodes is found as well.
    assert isinstance(queue.take(), Probe)


def test_shard_crashing_without_any_sources_is_an_error() -> None:
    queue = queue_of(task("a"))
    with pytest.raises(JobError, match="a: "):
        while queue:
            queue.died(queue.take(), "killed")
