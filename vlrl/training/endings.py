"""How a run says that it has ended before its end: one line with what is safe and how to go on."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import NoReturn

from vlrl.data.files import disk_is_full
from vlrl.training import stopping
from vlrl.training.checkpoints import full_disk_message, last_checkpoint
from vlrl.training.console import refuse
from vlrl.training.out_of_memory import is_out_of_memory, out_of_memory_words

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "communicator was aborted")


def refuse_stopped(stop: stopping.StopRequests, request: stopping.EndRequest) -> int:
    """Say what ended the run, what is safe and the command that goes on. Returns the exit code."""
    folder = stop.folder
    if folder is None:
        return refuse(f"stopped by {request.why} before anything was written", request.code)
    safe = last_checkpoint(folder) or last_checkpoint(folder / "sft")
    what = f"{safe} is whole" if safe else "there was no step to save"
    return refuse(f"stopped by {request.why}; {what}. Go on with: {stop.go_on}", request.code)


def refuse_failed(error: Exception) -> int | None:
    """Say why a run failed where its surroundings did: a full disk, no memory, another process that has ended. Returns the exit
    code, or None for any other error, which is to be raised with its traceback."""
    folder = stopping.current().folder or Path.cwd()
    if disk_is_full(error, folder):
        what = str(getattr(error, "filename", None) or "a file")
        message = f"stopped: {full_disk_message(folder, what, error)}"
        if os.environ.get("RANK", "0") != "0":  # the first process may not have met it
            print(message, file=sys.stderr, flush=True)
        return refuse(message, 1)
    if is_out_of_memory(error):
        return _refuse_too_large(error, folder)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and isinstance(error, RuntimeError) and any(w in str(error) for w in _LOST):
        stop = stopping.current()
        if stop.request is not None:  # it was asked to stop, and this one too
            return refuse_stopped(stop, stop.request)
        return refuse(f"stopped: another process of this run has ended ({str(error).splitlines()[0][:200]})", 1)
    return None


def _refuse_too_large(error: Exception, folder: Path) -> int:
    """Memory has run out. Returns the exit code."""
    stop = stopping.current()
    message = f"stopped: {out_of_memory_words(error, stop.asked)}"
    safe = None if stop.folder is None else last_checkpoint(folder) or last_checkpoint(folder / "sft")
    if safe and stop.go_on:
        message += f". {safe} is whole; go on with: {stop.go_on}"
    if os.environ.get("RANK", "0") != "0":  # the first process may not have met it
        print(message, file=sys.stderr, flush=True)
    return refuse(message, 1)


def leave(code: int) -> NoReturn:
    """End this process; where there are several, without taking the interpreter apart first.

    Gloo's threads release the tensors of a gather a moment after it has returned. Where the interpreter is ending by then, they
    cannot have its lock and abort a process that had finished (seen in one run of six). So what is registered to run at exit is
    run, what is printed is flushed, and the process ends. One that did not succeed may wait for the others there.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if code == 0:
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
