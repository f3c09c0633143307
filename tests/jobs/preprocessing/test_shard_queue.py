"""The queue of shards, told who died over what: every shard is made, and only what kills is given up."""

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


def holds(work: Work, poison: set[str]) -> bool:
    """Whether a worker that does `work` meets one of `poison`."""
    if isinstance(work, Probe):
        return bool(set(work.sources) & poison)
    return bool(poison - set(work.task.given_up))


def test_the_longest_shard_goes_first() -> None:
    queue = queue_of(task("a", 1), task("b", 3), task("c", 2))
    assert [queue.take().task.shard for _ in range(3)] == ["b", "c", "a"] and not queue


@given(st.sets(st.sampled_from(SOURCES)))
def test_exactly_the_crashing_sources_are_given_up(poison: set[str]) -> None:
    queue, made, steps = queue_of(task("a"), task("b")), [], Counter[str]()
    while queue:
        work = queue.take()
        steps[type(work).__name__] += 1
        if holds(work, poison) and work.task.shard == "a":
            queue.died(work, "killed")
            continue
        queue.done(work)
        made += [work.task] if isinstance(work, BuildShard) else []
    given_up = {made_task.shard: set(made_task.given_up) for made_task in made}
    assert given_up == {"a": poison, "b": set()}
    assert steps["BuildShard"] == 2 + MAX_CRASHES * bool(poison)
    # By halves, not one by one: each needs its own way down, and patience at the end of it.
    assert steps["Probe"] <= 2 * len(SOURCES) + (MAX_CRASHES - 1) * len(poison)


@given(st.lists(st.booleans(), max_size=80))
def test_deaths_by_chance_give_nothing_up(coins: list[bool]) -> None:
    """Two deaths in a row of any piece of work at most: everything is made, nothing is lost."""
    queue, deaths, made = queue_of(task("a"), task("b"), task("c")), Counter[Work](), []
    tosses = iter(coins)
    while queue:
        work = queue.take()
        if next(tosses, False) and deaths[work] < MAX_CRASHES - 1:
            deaths[work] += 1
            queue.died(work, "killed")
            continue
        queue.done(work)
        made += [work.task] if isinstance(work, BuildShard) else []
    assert sorted(made_task.shard for made_task in made) == ["a", "b", "c"]
    assert not any(made_task.given_up for made_task in made)


def test_a_shard_that_crashes_workers_without_a_guilty_file_is_an_error() -> None:
    queue = queue_of(task("a"))
    with pytest.raises(JobError, match="a: "):
        while queue:
            work = queue.take()
            if isinstance(work, BuildShard):
                queue.died(work, "out of memory")
            else:
                queue.done(work)


def test_workers_that_die_before_starting_do_not_count() -> None:
    queue = queue_of(task("a"))
    for _ in range(10):
        queue.give_back(queue.take())
    work = queue.take()
    assert isinstance(work, BuildShard) and not queue


def test_lost_nodes_hardly_count() -> None:
    queue = queue_of(task("a"))
    for _ in range(10):
        queue.node_lost(queue.take())
    work = queue.take()
    assert isinstance(work, BuildShard) and not queue
    queue.node_lost(work)
    queue.died(queue.take(), "killed")
    queue.died(queue.take(), "killed")
    assert isinstance(queue.take(), Probe)  # from the eleventh on they do: a file that fells nodes is found as well


def test_an_empty_shard_that_still_crashes_workers_is_an_error() -> None:
    queue = queue_of(task("a"))
    with pytest.raises(JobError, match="a: "):
        while queue:
            queue.died(queue.take(), "killed")
