"""A method of one live object in another's place, for a while.

TRL calls `model.generate` in the middle of a longer method of its own, and transformers' `generate` asks the model for
`get_compiled_call` in the middle of its loop; neither has a hook there, nor has the way from TRL to vLLM. So these, on one
object and within one block, are replaced. Nothing else in this project is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_MARK = "_vlrl_replaces"


@contextmanager
def replaced_method(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Within, `owner.name` is `function`, for this object alone; past it, what it was before, after an error too. Others may
    have replaced it for the whole run (FSDP wraps `generate`). Raises RuntimeError where this has replaced it already."""
    missing = object()
    before = vars(owner).get(name, missing)
    if hasattr(before, _MARK):
        raise RuntimeError(f"{type(owner).__name__}.{name} is replaced already")

    def ours(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    setattr(ours, _MARK, before is not missing and before)
    vars(owner)[name] = ours
    try:
        yield
    finally:
        vars(owner).pop(name, None)
        if before is not missing:
            vars(owner)[name] = before


@contextmanager
def own_method(owner: Any, name: str) -> Iterator[None]:
    """Within, `owner.name` is what it was before it was replaced around."""
    function = vars(owner).pop(name)
    if before := getattr(function, _MARK):
        vars(owner)[name] = before
    try:
        yield
    finally:
        vars(owner)[name] = function
