"""A process beside this one, with a pipe to it, that ends with this one."""

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from typing import Any

_BLOCKED = {signal.SIGINT, signal.SIGTERM}


class ChildDied(RuntimeError):
    """A child process ended without having sent what was expected of it."""


class ChildProcess:
    """Runs `target(pipe, *arguments)` in a new process; `pipe` here is the other end.

    It is spawned, because a fork of a process that uses CUDA cannot use torch. The arguments should take less than 64
    KB pickled, or this process waits until that one has imported its modules. SIGINT and SIGTERM do not reach it: they
    are often sent to all processes of a run, and this one decides when it ends. It is killed when this object is
    closed or no longer used, and before the interpreter exits.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        resource_tracker.ensure_running()  # which unblocks the signals when it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)  # inherited
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()  # so that the pipe ends with the process
        # Before multiprocessing's own, which asks by SIGTERM and waits forever.
        self._end = Finalize(self, _end, (process, self.pipe), exitpriority=0)

    def receive(self) -> Any:
        """Wait for the next object from the process. Raises `ChildDied` if it ended instead."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError) as error:  # OSError: in the middle of a message
            raise ChildDied("a child process has died") from error

    def close(self) -> None:
        """Kill the process."""
        self._end()


def _end(process: SpawnProcess, pipe: Connection) -> None:
    process.kill()
    process.join()
    pipe.close()
