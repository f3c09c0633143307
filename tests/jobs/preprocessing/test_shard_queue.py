"""The shard queue: every shard is built, and only sources that crash workers are given up."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.preprocessing.shard_queue import BuildShards, Probe, ShardQueue, Work
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
    return bool(poison - set(work.tasks[0].given_up))


def shards(work: Work) -> list[str]:
    """The shards that are built."""
    assert isinstance(work, BuildShards)
    return [task.shard for task in work.tasks]


def test_longest_shard_goes_first() -> None:
    queue = queue_of(task("a", 1), task("b", 3), task("c", 2))
    assert [shards(queue.take()) for _ in range(3)] == [["b"], ["c"], ["a"]] and not queue


def test_groups_shrink_towards_the_end_and_hold_every_shard_once() -> None:
    queue, taken = queue_of(*(task(f"{i:03}") for i in range(100))), []
    while queue:
        taken.append(shards(queue.take(workers=2)))
    assert [len(group) for group in taken[:2]] == [12, 11] and len(taken[-1]) == 1
    assert sorted(shard for group in taken for shard in group) == [f"{i:03}" for i in range(100)]
    many = queue_of(*(task(f"{i:03}") for i in range(1000)))
    assert len(shards(many.take(workers=2))) == 16


def test_shards_of_a_dead_group_are_retried_alone_and_one_by_one() -> None:
    queue = queue_of(*(task(f"{i}") for i in range(40)))
    group = queue.take()
    assert isinstance(group, BuildShards) and len(group.tasks) == 10
    queue.died(BuildShards(group.tasks[3:]), "killed")  # three of them were published
    retried = [shards(queue.take()) for _ in range(7)]
    assert retried == [[task.shard] for task in group.tasks[3:]] and len(shards(queue.take())) > 1
    queue.died(BuildShards(()), "killed")  # after the last of them


@given(st.sets(st.sampled_from(SOURCES)))
def test_only_crashing_sources_are_given_up(poison: set[str]) -> None:
    queue, built, steps = queue_of(task("a"), task("b")), [], Counter[str]()
    while queue:
        work = queue.take()
        steps[type(work).__name__] += 1
        shard = work.task.shard if isinstance(work, Probe) else work.tasks[0].shard
        if is_poisoned(work, poison) and shard == "a":
            queue.died(work, "killed")
            continue
        queue.done(work)
        built += work.tasks if isinstance(work, BuildShards) else []
    given_up = {built_task.shard: set(built_task.given_up) for built_task in built}
    assert given_up == {"a": poison, "b": set()}
    assert steps["BuildShards"] == 2 + MAX_CRASHES * bool(poison)
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
        built += work.tasks if isinstance(work, BuildShards) else []
    assert sorted(built_task.shard for built_task in built) == ["a", "b", "c"]
    assert not any(built_task.given_up for built_task in built)


def test_shard_crashing_without_a_crashing_file_is_an_error() -> None:
    queue = queue_of(task("a"))
    with pytest.raises(JobError, match="a: "):
        while queue:
            work = queue.take()
            if isinstance(work, BuildShards):
                queue.died(work, "out of memory")
            else:
                queue.done(work)


def test_returned_work_does_not_count_as_a_crash() -> None:
    queue = queue_of(task("a"))
    for _ in range(10):
        queue.give_back(queue.take(), "killed")
    work = queue.take()
    assert isinstance(work, BuildShards) and not queue


def test_only_many_lost_nodes_count_as_crashes() -> None:
    queue = queue_of(task("a"))
    for _ in range(10):
        queue.node_lost(queue.take())
    work = queue.take()
    assert isinstance(work, BuildShards) and not queue
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
