"""Python files that users bring (`--task my_task.py`, `--rewards my_rewards.py:function`), loaded in one way."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_file(path: str | Path, what: str) -> ModuleType:
    """The module in `path`, run once per process and content of the file. `what` begins the message, as in "--task my_task.py".

    Raises ValueError in one line for a file that does not exist, is not Python, or fails while it is imported (with the line
    that failed).
    """
    place = Path(path).expanduser()
    if place.suffix != ".py" or not place.is_file():
        raise ValueError(f"{what}: {place} {'is not a .py file' if place.exists() else 'does not exist'}")
    place = place.resolve()
    name = f"vlrl_user_{place.stem}_{hashlib.sha256(str(place).encode() + place.read_bytes()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None:
        raise ValueError(f"{what}: {place} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    if str(place.parent) not in sys.path:
        sys.path.append(str(place.parent))  # files beside it; last, so that none of them hides a library
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{what}: importing {place} failed{_line_of(error, place)}: {error!r}") from error
    return module


def _line_of(error: BaseException, path: Path) -> str:
    """ " at line N" of the user's file, as far as the traceback or the syntax error names it."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" at line {error.lineno}"
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = trace.tb_lineno
        trace = trace.tb_next
    return "" if found is None else f" at line {found}"
