"""`export --to lmms_eval`: a folder that lmms-eval runs as a task of its own: YAML, functions, documents, samples.

The prompt, the images and the metric are the task's own, so a model measured there has the numbers that `vlrl bench` gives.
Single questions only: games need replies in turns, and benchmarks ask in stages.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from vlrl.bench.engines import prepare_elsewhere
from vlrl.bench.lmms_eval_task import DOCS_FILE, ID_KEY, SAMPLES_FILE, TASK_FILE
from vlrl.bench.report import check_folder
from vlrl.bench.suites import entry_of, load_suite
from vlrl.data.files import write_json_lines, write_whole
from vlrl.data.images import ImageError
from vlrl.data.sample_json import file_of, in_file, sample_to_json
from vlrl.data.special_tokens import as_plain_text
from vlrl.schema import Prediction, Sample, SampleError, Task
from vlrl.tasks import load_tasks
from vlrl.tasks.evaluate import LOWER_IS_BETTER, as_text, measure, numbers, write_json

N_ASKED_FOR_NAMES = 64
"""Samples from which the names of a task's metrics are taken."""
_YAML = """\
# Written by `vlrl bench export`. {n} samples of {source}.
dataset_path: json
dataset_kwargs:
  data_files:
    test: {docs}
task: {name}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: !function utils.doc_to_target
generation_kwargs:
  until: []
  max_new_tokens: {max_tokens}
  temperature: 0
  do_sample: false
reasoning_tags: none  # a thought is read by the task itself
process_results: !function utils.process_results
metric_list:
{metrics}metadata:
  version: 1.0
"""
_METRIC = """\
  - metric: {name}
    aggregation: !function utils.metric_{place}
    higher_is_better: {higher}
"""
_FUNCTIONS = '''\
"""Functions of a task for lmms-eval. Written by `vlrl bench export`; what they do is in vlrl.bench.lmms_eval_task."""

from pathlib import Path

from vlrl.bench.lmms_eval_task import exported_task

TASK = exported_task(Path(__file__).resolve().parent)
METRICS = {metrics}


def doc_to_visual(doc, *_):
    return TASK.images(doc)


def doc_to_text(doc, *_):
    return doc["prompt"]


def doc_to_target(doc, *_):
    return doc["target"]


def process_results(doc, results, **_):
    return TASK.process(doc, results, METRICS)
'''
_AGGREGATION = """

def metric_{place}(results):
    return TASK.aggregate(results, METRICS[{place}])
"""


def export(args: argparse.Namespace) -> int:
    """Write a folder a task into `--output_path`. Raises ValueError for tasks, data or flags that cannot be used."""
    if entry_of(args.task) is not None:
        raise ValueError(f"--task {args.task}: a benchmark of several stages; lmms-eval takes tasks of single questions")
    check_folder(args.output_path)
    suite = load_suite(args, need_images=True)
    if suite.boxes and args.coords in (None, "resized_px"):
        raise ValueError(
            "--coords: say how the model writes boxes: norm1000 | norm1 | px (resized_px depends on an image processor that"
            " lmms-eval has, not we)"
        )
    samples = [sample for stage in suite.stages for sample in stage({})]
    by_task = {name: [sample for sample in samples if sample.task == name] for name in suite.tasks}
    written = []
    word_of = {task.name: word for word, task in zip(args.task.split(","), load_tasks(args.task), strict=True)}
    for name, task in suite.tasks.items():
        if any(task.is_episode(sample) for sample in by_task[name]):
            raise ValueError(f"--task {name}: a game is played in turns, which lmms-eval does not do; export single questions")
        if task.system:
            raise ValueError(f"--task {name}: its system message is not exported; lmms-eval takes one by --system_instruction")
        if by_task[name]:
            source = word_of[name] if not word_of[name].endswith(".py") else str(Path(word_of[name]).resolve())
            n_tokens = suite.limit(by_task[name][0])
            written.append(_write_task(args, task, source, by_task[name], n_tokens, suite.source.description))
    names = ",".join(folder.name for folder in written)
    words = ["python", "-m", "lmms_eval", "--model", "MODEL", "--model_args", "...", "--include_path", str(args.output_path)]
    print(shlex.join([*words, "--tasks", names, "--log_samples", "--output_path", "logs"]))
    for folder in written:
        print(folder)
    return 0


def _write_task(args: argparse.Namespace, task: Task, source: str, samples: Sequence[Sample], limit: int, data: str) -> Path:
    """Write one task's folder. `source`: what `--task` names it by."""
    forms = {"answer_format": args.answer_format, "box_format": args.box_format}
    ready = [_ready(sample, args.coords, forms) for sample in samples]
    name = "vlrl_" + "".join(letter if letter.isalnum() else "_" for letter in task.name)
    folder: Path = args.output_path / name
    folder.mkdir(parents=True, exist_ok=True)
    metrics = metric_names(task, ready)
    write_json_lines(folder / SAMPLES_FILE, map(sample_to_json, ready))
    docs = (
        {
            ID_KEY: sample.id,
            "prompt": as_plain_text(sample, task.prompt(sample)),
            "question": sample.question,
            "target": as_text(sample.answer),
        }
        for sample in ready
    )
    write_json_lines(folder / DOCS_FILE, docs)
    write_json(folder / TASK_FILE, {"task": source, "name": task.name})
    functions = _FUNCTIONS.format(metrics=json.dumps(metrics))
    functions += "".join(_AGGREGATION.format(place=place) for place in range(len(metrics)))
    write_whole(folder / "utils.py", functions)
    lines = "".join(
        _METRIC.format(name=json.dumps(one), place=place, higher=str(one not in LOWER_IS_BETTER).lower())
        for place, one in enumerate(metrics)
    )
    docs_path = json.dumps(str((folder / DOCS_FILE).resolve()))
    text = _YAML.format(n=len(ready), source=" ".join(data.split()), docs=docs_path, name=name, max_tokens=limit, metrics=lines)
    write_whole(folder / f"{name}.yaml", text)
    return folder


def _ready(sample: Sample, coords: str | None, forms: dict[str, str | None]) -> Sample:
    """The sample as another program's model sees it, with absolute paths. Raises SampleError."""
    try:
        ready = prepare_elsewhere(sample, coords, forms)
    except ImageError as error:
        raise SampleError(f"id {sample.id!r}: {error}") from error
    images = tuple(map(_absolute, ready.images))
    video = None if ready.video is None else str(Path(ready.video).resolve())
    return dataclasses.replace(ready, images=images, video=video)


def _absolute(path: str) -> str:
    """An image's path or address from the root; one that is drawn as it is."""
    file = file_of(path)
    return path if file is None else in_file(path, str(Path(file).resolve()))


def metric_names(task: Task, samples: Sequence[Sample]) -> list[str]:
    """The metrics of the whole set, the headline first: those that empty answers to some of the samples have."""
    some = list(samples[:N_ASKED_FOR_NAMES])
    found = numbers(task, measure(task, some, [Prediction(sample.id, "", None, False) for sample in some]))
    plain = [name for name in found if "[" not in name and name != task.headline]
    if skipped := len(found) - len(plain) - 1:
        print(f"note: {skipped} numbers of single groups are left to `vlrl bench score`", file=sys.stderr)
    return [task.headline, *plain]
