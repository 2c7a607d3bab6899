"""Which checkpoints of a run are whole: every file that going on needs is there and read to its end.

What is missing would not stop transformers: without `optimizer.pt` or the states of the random generators it goes on with new
ones, and the run is another one. Headers and ends of files are read, so a checkpoint of any size is checked in a moment. Not
here: how checkpoints are written and loaded (`vlrl.training.checkpoints`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from vlrl.data.value_head_files import HEAD_WEIGHTS
from vlrl.models.whole_files import ADAPTER_FILES, file_problem, json_problem, weights_problem

STATE = "trainer_state.json"
SHARDED = ("global_step*", "pytorch_model_fsdp*", "optimizer_*")
"""What DeepSpeed and FSDP write in place of single files; their own loaders check these."""


@dataclass(frozen=True)
class FoundCheckpoint:
    """Where a run can go on. `path`: its newest whole checkpoint, None without one. `damaged`: why each newer one was passed
    over, the newest first."""

    path: str | None
    damaged: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What a person must know of checkpoints that were passed over; "" where there are none."""
        if not self.damaged:
            return ""
        return f"{'; '.join(self.damaged)}. Going on from {self.path}, the newest checkpoint that is whole"


def checkpoint_problem(folder: Path) -> str | None:
    """What is missing from a checkpoint or damaged in it, naming the file; None for a whole one."""
    state = folder / STATE
    if not state.is_file():
        return f"{folder} is not a checkpoint: there is no {STATE} in it"
    if problem := json_problem(state):
        return problem
    step = json.loads(state.read_text(encoding="utf-8")).get("global_step")
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        return f"{state} is damaged: it states no global_step"
    if any(next(folder.glob(pattern), None) for pattern in SHARDED):
        return None
    return _weights(folder) or _states(folder)


def _weights(folder: Path) -> str | None:
    if (folder / "adapter_config.json").is_file():
        found = json_problem(folder / "adapter_config.json") or weights_problem(folder, ADAPTER_FILES)
    else:
        found = json_problem(folder / "config.json") or weights_problem(folder)
    if found is None and (folder / HEAD_WEIGHTS).is_file():
        found = file_problem(folder / HEAD_WEIGHTS)
    return found


def _states(folder: Path) -> str | None:
    """What is wrong with the states beside the weights."""
    for name, what in (("optimizer.pt", "the optimizer's state"), ("scheduler.pt", "the place in the schedule")):
        if not (folder / name).is_file():
            return f"{folder / name} is missing, so {what} is lost"
        if problem := file_problem(folder / name):
            return problem
    generators = sorted(folder.glob("rng_state*.pth"))
    if not generators:
        return f"{folder / 'rng_state.pth'} is missing, so the random generators would begin anew"
    numbers = [int(found[1]) for path in generators if (found := re.fullmatch(r"rng_state_(\d+)", path.stem))]
    if numbers and sorted(numbers) != list(range(len(numbers))):
        lost = next(i for i in range(max(numbers)) if i not in numbers)
        return f"{folder / f'rng_state_{lost}.pth'} is missing: each process wrote one"
    return next(filter(None, map(file_problem, generators)), None)


def saved_by(folder: Path) -> int:
    """How many processes wrote a checkpoint; 0 where it does not say."""
    return len(list(folder.glob("rng_state*.pth")))


def checkpoints_of(run: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    steps = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in run.glob("checkpoint-*") if path.is_dir()}
    return sorted((path for path, found in steps.items() if found), key=lambda path: -int(path.name.rsplit("-", 1)[1]))


def newest_whole(run: Path) -> FoundCheckpoint:
    """The newest whole checkpoint of a run, and what was wrong with newer ones."""
    damaged: list[str] = []
    for folder in checkpoints_of(run):
        problem = checkpoint_problem(folder)
        if problem is None:
            return FoundCheckpoint(str(folder), tuple(damaged))
        damaged.append(problem)
    return FoundCheckpoint(None, tuple(damaged))
