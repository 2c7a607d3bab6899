"""The tasks, by name. A task is one file holding a `TASK`; users bring their own with `--task path/to/my_task.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from vlrl.data.name_values import nearest
from vlrl.data.user_files import load_file
from vlrl.schema import Task
from vlrl.tasks import classification, detection, grounding, planning, pointing, qa
from vlrl.tasks.games import GAME_TASKS

TASKS: dict[str, Task] = {
    "detection": detection.TASK,
    "grounding": grounding.TASK,
    "classification": classification.TASK,
    "planning": planning.TASK,
    "qa": qa.TASK,
}
KNOWN = {**TASKS, "pointing": pointing.TASK, **GAME_TASKS}
"""Single questions, which the embedded model has learnt but for pointing, and games that are played step by step."""
_NAME = re.compile(r"\w[\w .-]{0,63}")


def load_task(name: str) -> Task:
    """A task by name or from `path/to/file.py`. Raises ValueError naming the nearest known task, or what is wrong with the
    file."""
    if name in KNOWN:
        return KNOWN[name]
    if not name.endswith(".py"):
        known = f"(known: {', '.join(KNOWN)}, or path/to/my_task.py)"
        raise ValueError(f"unknown task {name!r}{nearest(name, KNOWN)} {known}")
    task = getattr(load_file(name, f"--task {name}"), "TASK", None)
    if not isinstance(task, Task):
        raise ValueError(f"--task {name}: defines no TASK of type vlrl.schema.Task (TASK = Task(name=..., ...))")
    if not _NAME.fullmatch(task.name):
        raise ValueError(f"--task {name}: a name holds letters, digits, blanks and _ . - (64 at most), got {task.name!r}")
    return task


def load_tasks(names: str) -> tuple[Task, ...]:
    """The tasks of `--task a,b,path/to/my_task.py`, in order; one named twice stands twice. Raises ValueError as `load_task`
    does, and for two different tasks of one name."""
    tasks = tuple(load_task(name) for name in names.split(","))
    by_name: dict[str, Task] = {}
    for task in tasks:
        if by_name.setdefault(task.name, task) is not task:
            raise ValueError(f"--task {names}: two different tasks are named {task.name!r}; rows could be either's, rename one")
    return tasks


def is_built_in(task: Task) -> bool:
    """Whether this is a task of the package, maybe asked in other words (`--prompt_template`) or measured by a protocol, and no
    user's of its name."""
    known = KNOWN.get(task.name)
    if known is None or known is task:
        return known is task
    same: dict[str, Any] = {"prompt": task.prompt, "system": task.system}
    if getattr(task.aggregate, "__module__", "") == "vlrl.tasks.protocols":  # a protocol's numbers, and what it needs
        same |= {name: getattr(task, name) for name in ("aggregate", "headline", "check")}
    return replace(known, **same) == task


def default_model(tasks: Iterable[Task]) -> str:
    """The embedded model of a run on these tasks that names none: theirs if they share one, else "tiny"."""
    names = {task.default_model for task in tasks}
    return names.pop() if len(names) == 1 else "tiny"
