"""A method of one live object in another's place, for a while.

TRL calls `model.generate` in the middle of a longer method of its own, and transformers' `generate` asks the model for
`get_compiled_call` in the middle of its loop; neither has a hook there. So these two, on one object and within one block, are
replaced. Nothing else in this project is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced_method(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Within, `owner.name` is `function`, for this object alone; past it, the class's own again, after an error too. Raises
    RuntimeError where it is replaced already."""
    if name in vars(owner):
        raise RuntimeError(f"{type(owner).__name__}.{name} is replaced already")
    vars(owner)[name] = function
    try:
        yield
    finally:
        vars(owner).pop(name, None)


@contextmanager
def own_method(owner: Any, name: str) -> Iterator[None]:
    """Within, `owner.name` is the class's own, though it is replaced around."""
    function = vars(owner).pop(name)
    try:
        yield
    finally:
        vars(owner)[name] = function
