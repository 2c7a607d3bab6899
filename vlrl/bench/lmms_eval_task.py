"""A task of ours inside lmms-eval: what the functions of a folder do that `vlrl bench export --to lmms_eval` wrote.

lmms-eval loads `docs.jsonl`, asks its model the prompt and images of each row, and scores the answers by the task's own metric,
so its numbers are those of `vlrl bench score`. Not here: writing the folder (`vlrl.bench.export`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from vlrl.data.files import read_json_object
from vlrl.data.images import open_images
from vlrl.data.sample_files import read_samples
from vlrl.schema import Prediction, Sample, Task
from vlrl.tasks import load_task
from vlrl.tasks.evaluate import measure, numbers

SAMPLES_FILE, DOCS_FILE, TASK_FILE, ID_KEY = "samples.jsonl", "docs.jsonl", "task.json", "vlrl_id"


class ExportedTask:
    """The task in `folder`. A document is a row of `docs.jsonl`: `vlrl_id`, `prompt`, `question`, `target`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._scored: tuple[str, dict[str, float]] = ("", {})

    @cached_property
    def task(self) -> Task:
        return load_task(str(read_json_object(self.folder / TASK_FILE)["task"]))

    @cached_property
    def samples(self) -> dict[str, Sample]:
        return {sample.id: sample for sample in read_samples(str(self.folder / SAMPLES_FILE), need_images=False)}

    def images(self, doc: Mapping[str, Any]) -> list[Image.Image]:
        """What lmms-eval shows its model. Raises ImageError."""
        return open_images(self.samples[doc[ID_KEY]])

    def process(self, doc: Mapping[str, Any], results: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
        """One answer, under the name of every metric, as lmms-eval wants it. `score`: the share of the headline, from
        which lmms-eval computes its standard errors."""
        sample, completion = self.samples[doc[ID_KEY]], results[0]
        rows = measure(self.task, [sample], [Prediction(sample.id, completion, None, False)])
        logged = {ID_KEY: sample.id, "completion": completion, "score": rows[0].value if rows and rows[0].parts else 0.0}
        return dict.fromkeys(metrics, logged)

    def aggregate(self, results: Sequence[Mapping[str, Any]], metric: str) -> float:
        """A metric over all answers; NaN where it is not defined. The metrics of one set of answers are computed once."""
        key = json.dumps([[one[ID_KEY], one["completion"]] for one in results])
        if self._scored[0] != key:
            samples = [self.samples[one[ID_KEY]] for one in results]
            made = [Prediction(one[ID_KEY], one["completion"], None, False) for one in results]
            found = numbers(self.task, measure(self.task, samples, made))
            values = {name: math.nan if one.value is None else float(one.value) for name, one in found.items()}
            self._scored = (key, values)
        return self._scored[1].get(metric, math.nan)


@cache
def exported_task(folder: Path) -> ExportedTask:
    """The task in a folder, once a process: lmms-eval loads the functions of a YAML file one by one."""
    return ExportedTask(folder)
