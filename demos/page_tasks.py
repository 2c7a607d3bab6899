"""The tasks that the page lists: those of the package and those that whoever starts it brings, with samples to show of each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlrl.data.images import image_size
from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.data.sample_sets import read_set
from vlrl.rewards import REWARDS
from vlrl.schema import ModelView, Sample, SampleError, Task
from vlrl.tasks import TASKS, is_built_in, load_task
from vlrl.tasks.rubric import answer_problem_of, choose, try_once

NOWHERE = Path("/nonexistent")


class PageTasks:
    """Tasks by name, and the samples of files that are shown as their examples. A sample typed on the page may name no other
    files than these samples do."""

    def __init__(self, tasks: Mapping[str, Task] = TASKS, samples: Mapping[str, Sequence[Sample]] | None = None) -> None:
        self.tasks, self.samples = dict(tasks), dict(samples or {})
        self._file_of: dict[str, str] = {}
        self._name_of: dict[str, str] = {}
        self._rewards: set[str] = set()

    def __getitem__(self, name: str) -> Task:
        return self.tasks[name]

    @property
    def names(self) -> list[str]:
        """Users' tasks first: who brings one wants to see it."""
        return sorted(self.tasks, key=lambda name: is_built_in(self.tasks[name]))

    def add_file(self, path: Path, own: Sequence[str] = ()) -> None:
        """Show the samples of a file as examples; rows of other projects are read as training reads
        them, for the tasks `own` that the user brings. Raises SampleError, or TaskError where a task cannot work with them."""
        samples = list(read_set(path, tasks=own))
        for sample in samples:
            if sample.task not in self.tasks:
                raise SampleError(f"{path} (id {sample.id!r}): its task is {sample.task!r}; add it with --task my_task.py")
            problem = answer_problem_of(self.tasks[sample.task], sample)
            if problem:
                raise SampleError(f"{path} (id {sample.id!r}): {problem}")
        try_once(choose(None, samples, self.tasks), samples)
        for name in dict.fromkeys(sample.task for sample in samples):
            self.samples[name] = [*self.samples.get(name, ()), *(sample for sample in samples if sample.task == name)]
        for sample in samples:
            self._rewards.update(sample.facts.get("rewards") or ())
            for file in _files(sample):
                short = str(Path(file).relative_to(path.parent)) if Path(file).is_relative_to(path.parent) else file
                name = short if self._file_of.setdefault(short, file) == file else file
                self._file_of[name], self._name_of[file] = file, name

    def has_examples(self, name: str) -> bool:
        return bool(self.samples.get(name)) or self.tasks[name].synthetic is not None

    def example(self, name: str, index: int) -> Sample:
        """A sample of the task's file, or a held-out synthetic one, boxes in pixels of the image. An empty one, without an
        answer, where the task has neither."""
        if given := self.samples.get(name):
            sample = given[index % len(given)]
        elif self.tasks[name].synthetic is not None:
            sample = self.tasks[name].draw(0, "heldout", index)
        else:
            return Sample("example", name, "", None)
        meta = {**sample.meta}
        if sample.images:
            meta["image_size"] = list(image_size(sample.images[int(sample.facts.get("image_index", 0))]))
        return dataclasses.replace(sample, meta=meta, view=ModelView("px"))

    def reference(self, sample: Sample) -> str:
        """The task's reference answer, or "" where it is not known."""
        task = self.tasks[sample.task]
        return "" if sample.answer is None or task.oracle is None else task.reference(sample)

    def as_text(self, sample: Sample) -> str:
        """The sample as a file would hold it, images under the names of that file."""
        shown = dataclasses.replace(
            sample,
            images=tuple(self._name_of.get(path, path) for path in sample.images),
            video=sample.video and self._name_of.get(sample.video, sample.video),
        )
        return json.dumps(sample_to_json(shown), indent=1, ensure_ascii=False, default=lambda value: value.item())

    def read_sample(self, text: str) -> Sample:
        """A sample from the JSON text on the page. Its images must be `synthetic:` addresses or those of an example, so that no
        other file of this machine is opened. Raises SampleError."""
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SampleError(f"not JSON: {error}") from error
        sample = sample_from_json(row, "sample", NOWHERE)
        if sample.task not in self.tasks:
            raise SampleError(f"task {sample.task!r}: give one of {', '.join(self.names)}")
        self._check_rewards(sample)
        video = sample.video and self._file(sample.video)
        sample = dataclasses.replace(sample, images=tuple(self._file(path) for path in sample.images), video=video)
        problem = answer_problem_of(self.tasks[sample.task], sample)
        if problem:
            raise SampleError(problem)
        return sample

    def _check_rewards(self, sample: Sample) -> None:
        named = sample.facts.get("rewards") or []
        if not isinstance(named, list):
            raise SampleError(f"meta.rewards must be a list of names, got {named!r:.60}")
        for name in named:
            if name not in self._rewards and str(name).partition(":")[0] not in REWARDS:
                raise SampleError(f"meta.rewards: {name!r:.60} is no built-in reward; files are not run")

    def _file(self, path: str) -> str:
        name = str(Path(path).relative_to(NOWHERE)) if Path(path).is_relative_to(NOWHERE) else path
        if name.startswith("synthetic:"):
            return name
        if name not in self._file_of:
            raise SampleError("images must be synthetic: addresses or those of an example; other files are not opened")
        return self._file_of[name]


def load_page_tasks(paths: Sequence[str], data: Sequence[Path]) -> PageTasks:
    """The package's tasks with those of `paths` (`--task my_task.py`) and the samples of `data`. Raises ValueError in one line
    for a task or a file that cannot be used."""
    tasks, own = dict(TASKS), []
    for path in paths:
        task = load_task(path)
        if task.name not in tasks and is_built_in(task):
            raise ValueError(f"--task {path}: card games are played on the tab Play")
        if tasks.setdefault(task.name, task) is not task:
            raise ValueError(f"--task {path}: the page has a task named {task.name!r} already; rename one")
        own.append(task.name)
    found = PageTasks(tasks)
    for file in data:
        found.add_file(file, own)
    return found


def _files(sample: Sample) -> list[str]:
    named = [*sample.images, *([sample.video] if sample.video else [])]
    return [path for path in named if not path.startswith("synthetic:")]
