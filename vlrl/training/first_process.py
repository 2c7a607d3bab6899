"""Work that one process of a run does for all of them, and what all of them must have alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from vlrl.schema import SampleError, TaskError
from vlrl.training.checkpoints import RunStopped
from vlrl.training.options import ConfigError

Computed = TypeVar("Computed")
EXPLAINED = (TaskError, SampleError, ConfigError)
"""Errors that say all there is to say: every process raises them."""


def n_processes() -> int:
    return int(PartialState().num_processes)


def say_first() -> Callable[..., None]:
    """`print` on the first process, nothing on the others."""
    return partial(print, flush=True) if PartialState().is_main_process else (lambda *_words, **_options: None)


def of_first_process(compute: Callable[[], Computed]) -> Computed:
    """What `compute` returns on the first process, on all of them: a metric may ask an endpoint, a set of samples need not be
    looked at once a process, and a file that the first process has just written may not have been there when another looked.

    Where it raises, every process does, so that none waits for the first: one of `EXPLAINED` as it is, any other error as
    RunStopped on the other processes.
    """
    state = PartialState()
    shared: list[Any] = [None, None]
    failure: Exception | None = None
    if state.is_main_process:
        try:
            shared[0] = compute()
        except EXPLAINED as error:
            shared[1] = error
        except Exception as error:  # noqa: BLE001 raised again below, when all know
            failure, shared[1] = error, RunStopped(f"the first process ended: {type(error).__name__}: {error}")
    if state.num_processes > 1:
        broadcast_object_list(shared)
    if failure is not None:
        raise failure
    if shared[1] is not None:
        raise shared[1]
    found: Computed = shared[0]
    return found


def check_alike(what: str, value: str) -> None:
    """Every process has the same `value`, such as a digest of its rows. Raises RunStopped, on all of them, where one has not:
    nodes whose disks hold different files would train on different data without a word."""
    if PartialState().num_processes == 1:
        return
    values = gather_object([value])
    others = [rank for rank, one in enumerate(values) if one != values[0]]
    if others:
        shown = ", ".join(map(str, others[:8])) + (" ..." if len(others) > 8 else "")
        raise RunStopped(
            f"process {shown} of {len(values)} has another {what} than the first ({values[others[0]]}, not {values[0]}): the"
            " files on its disk differ; give all nodes the same"
        )
