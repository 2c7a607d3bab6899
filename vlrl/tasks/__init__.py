"""The tasks, by name. A task is one file holding a `TASK`; users bring their own with `--task path/to/my_task.py`."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from vlrl.schema import Task
from vlrl.tasks import classification, detection, grounding, planning, qa
from vlrl.tasks.games import GAME_TASKS

TASKS: dict[str, Task] = {
    "detection": detection.TASK,
    "grounding": grounding.TASK,
    "classification": classification.TASK,
    "planning": planning.TASK,
    "qa": qa.TASK,
}
KNOWN = {**TASKS, **GAME_TASKS}
"""Single questions, and games that are played step by step."""


def load_task(name: str) -> Task:
    """A task by name or from `path/to/file.py`. Raises ValueError naming the nearest known task."""
    if name in KNOWN:
        return KNOWN[name]
    if not name.endswith(".py"):
        close = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown task {name!r}{hint} (known: {', '.join(KNOWN)}, or path/to/my_task.py)")
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--task {name}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--task {name}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        raise ValueError(f"--task {name}: defines no TASK of type vlrl.schema.Task")
    return task
