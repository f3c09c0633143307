"""Functions as code that torch generates."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled_if(compiled: bool, function: _Function) -> _Function:
    """Return `function`, through `torch.compile` if `compiled`. Nothing is generated before its first call."""
    return _compiled(function) if compiled else function


# Cached, so that each call does not wrap it again; a function, because importing torch's compiler takes two seconds.
@functools.cache
def _compiled(function: Callable[..., Any]) -> Any:
    return torch.compile(function)
