"""The console side of a training run: flags are checked before any library loads, and an error is one line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vlrl.data.masking import masked
from vlrl.training import stopping
from vlrl.training.run_status import write_ending


def check_flags(words: Sequence[str]) -> int | None:
    """Check a training run's flags without importing a library, and set the environment that its files ask for. Returns the
    exit code where it ends here, after `--help` or a wrong flag (the first process prints its message), or None where training
    can start."""
    from vlrl.training.command_line import check_command_line
    from vlrl.training.options import ConfigError

    try:
        os.environ.update(check_command_line(words))  # before the libraries read it
    except ConfigError as error:
        return refuse(f"error: {error}", 2)
    except SystemExit:
        return 0
    return None


def refuse(message: str, code: int) -> int:
    """Print why a run ends, once for all processes, and leave it in the run's folder and where torchrun looks for the cause.
    Returns `code`.

    torchrun ends with a traceback of its own for every exit code but 0, which no program under it can change; with the message
    in its error file, the last lines of that say the cause again. `vlrl train` prints the message alone.
    """
    message = masked(message)
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)
        write_ending(stopping.current().folder, message, code)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError):
            cause = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
            Path(file).write_text(json.dumps({"message": cause}), encoding="utf-8")
    return code
