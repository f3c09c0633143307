"""A local Ray cluster of several nodes whose workers can be killed and whose nodes can be lost."""

import contextlib
import logging
import os
import random
import types
from collections.abc import Iterator
from typing import Any, Self

import psutil
from ray.cluster_utils import Cluster

_WORKER_TITLE = "ray::ShardWorker"


class ChaosCluster:
    """A context with a head that builds no shards and `nodes` nodes of one core each; shut down at its end."""

    def __init__(self, nodes: int):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        logging.getLogger("ray").setLevel(logging.ERROR)
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._nodes: list[Any] = [self._cluster.add_node(num_cpus=1) for _ in range(nodes)]

    @property
    def address(self) -> str:
        """The value for `--ray-address`."""
        return self._cluster.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._cluster.shutdown()

    def is_working(self) -> bool:
        """Whether there is a worker; it may have just started, or belong to a dead driver."""
        return any(True for _ in self._workers())

    def kill_worker(self, rng: random.Random) -> bool:
        """SIGKILL one of the workers; False if there is none."""
        workers = sorted(self._workers(), key=lambda process: process.pid)
        if not workers:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice(workers).kill()
            return True
        return False

    def lose_node(self, rng: random.Random) -> bool:
        """Remove a node without warning and add another one."""
        node = self._nodes.pop(rng.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=1))
        return True

    def _workers(self) -> Iterator[psutil.Process]:
        for node in self._nodes:
            for raylet in node.all_processes["raylet"]:
                with contextlib.suppress(psutil.Error):
                    for process in psutil.Process(raylet.process.pid).children():
                        with contextlib.suppress(psutil.Error):
                            if process.cmdline()[:1] and process.cmdline()[0].startswith(_WORKER_TITLE):
                                yield process
