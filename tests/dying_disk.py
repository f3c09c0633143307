"""Fault injection: a process that dies at a chosen write, as if it were killed there, and never cleans up."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for the end of the process: no `except Exception` catches it."""


class Writes:
    """Counts the calls that change files below `folder`; from call `fatal` on, each raises `Killed` instead."""

    def __init__(self, folder: Path, fatal: int):
        self._folder, self._fatal = str(folder), fatal
        self.count = 0

    @property
    def died(self) -> bool:
        """Whether the fatal call was reached."""
        return self.count >= self._fatal

    def before(self, path: Any) -> None:
        """Count a call on `path`, if it lies below the folder."""
        if not str(path).startswith(self._folder) or "tensorboard" in str(path):
            return
        self.count += 1
        if self.died:
            raise Killed


@contextmanager
def dying_at(fatal: int, folder: Path) -> Iterator[Writes]:
    """Let everything in the block die at the `fatal`-th write below `folder`: an open for writing, an fsync, a rename,
    a link or a removal. A dead process writes no more, so every later one fails as well."""
    writes = Writes(folder, fatal)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir"):
            patch.setattr(os, name, _counted(getattr(os, name), writes))
        patch.setattr(os, "fsync", _counted(os.fsync, writes, lambda file: Path(f"/proc/self/fd/{file}").readlink()))
        patch.setattr(io, "open", _counted_open(io.open, writes))
        yield writes


def _counted(call: Callable, writes: Writes, path_of: Callable[[Any], Any] = lambda path: path) -> Callable:
    def counted(first: Any, *arguments: Any, **options: Any) -> Any:
        writes.before(path_of(first))
        return call(first, *arguments, **options)

    return counted


def _counted_open(call: Callable, writes: Writes) -> Callable:
    def counted(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            writes.before(file)
        return call(file, mode, *arguments, **options)

    return counted
