"""`check`: every row of a data file is valid, its images open, and its reference answer earns full marks, in another spelling
too, and less with something changed. Rows that say something else than their author meant (`vlrl.bench.check_rows`) are bad."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from vlrl.bench.check_rows import row_fault
from vlrl.bench.check_spellings import other_spellings
from vlrl.data.image_checks import decode_problem, image_index, shown_sizes, size_problem
from vlrl.data.image_notes import form_notes, refuse_unreadable_formats
from vlrl.data.sample_sets import read_set
from vlrl.data.special_tokens import USUAL, written_tokens
from vlrl.rewards import REWARDS, load_reward
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Prediction, Reward, Sample, Task
from vlrl.tasks import KNOWN, is_built_in, load_tasks
from vlrl.tasks.evaluate import measure
from vlrl.tasks.rubric import FORMS, answer_problem_of, choose, own_specs, try_once

if TYPE_CHECKING:
    from vlrl.bench.check_model import ModelCheck

ROUNDING = {"px": 1e-3, "norm1000": 0.05, "norm1": 0.01}
"""What writing the reference answer in a coordinate convention may cost of a reward."""
BY_SHARED_WORDS = ("token_f1", "arft_step")
"""Rewards that another spelling of a number lowers by design."""

ALL_RIGHT = "the reference answer earns full marks, in other spellings too, and less with a number, letter or box changed"


def check_data(args: argparse.Namespace) -> int:
    bad: list[str] = []
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    tasks = {**KNOWN, **{task.name: task for task in load_tasks(args.task)}} if args.task else KNOWN
    samples = read_set(args.data, args.image_root, tasks=[name for name in tasks if name not in KNOWN])
    refuse_unreadable_formats(samples, str(args.data))
    model = _model(args, tasks)
    spelled = [(sample.id, found) for sample in samples if (found := written_tokens(sample, USUAL))]
    for sample in tqdm(samples, desc=f"checking {args.data}", disable=True if len(samples) < 2000 else None, leave=False):
        counts[sample.task] += 1
        problem = row_problem(sample, tasks, args.coords, sizes)
        line = f"{args.data} (id {sample.id!r}): {problem}" if problem else None
        if line is None and model is not None:
            line = model.problem(sample)
        bad += [line] if line else []
    bad += model.overlong() if model is not None else []
    for name, n in counts.items():
        print(f"{name:16} {n} row{'s' * (n != 1)}")
    if sizes:
        (commonest, n), n_sizes = sizes.most_common(1)[0], len(sizes)
        print(f"{'images':16} {sum(sizes.values())} in {n_sizes} size{'s' * (n_sizes != 1)}, most often {commonest} ({n})")
    if spelled:
        (key, tokens), rows = spelled[0], f"{len(spelled)} row{'s' * (len(spelled) != 1)}"
        print(f"{'special tokens':16} {rows}, the first: {key!r} ({', '.join(tokens)}); shown to models as text")
    for line in form_notes(samples):
        print(f"{'note':16} {line}")
    for note in samples.notes:
        print(f"{'note':16} {note}")
    for line in bad:
        print(f"bad: {line}", file=sys.stderr)
    if args.pictures:
        from vlrl.bench.look import write_page_of

        write_page_of(args.pictures, samples, args, tasks, bad)
        print(f"{'pictures':16} {args.pictures}")
    without = [name for name in counts if name in tasks and tasks[name].oracle is None]
    marks = f"{', '.join(without)} has no oracle, so no reference answer was scored" if without else ALL_RIGHT
    n_good = len(samples) - len(bad)
    print(f"{n_good} of {len(samples)} rows {'is' if n_good == 1 else 'are'} good: valid, images open, {marks}")
    print(args.data)
    return 1 if bad or samples.n_bad else 0


def _model(args: argparse.Namespace, tasks: Mapping[str, Task]) -> ModelCheck | None:
    if not args.model_name_or_path:
        return None
    from vlrl.bench.check_model import model_check  # imports torch

    return model_check(args, tasks)


def row_problem(sample: Sample, tasks: Mapping[str, Task], coords: str, sizes: Counter[str]) -> str | None:
    """What is wrong with one row, or None. `sizes` counts the sizes of the images seen."""
    task = tasks.get(sample.task)
    if task is None:
        return f"no task is named {sample.task!r}; give the file that defines it: --task my_task.py"
    meta = {**sample.meta}
    try:
        shown = shown_sizes(sample)
        if image_problem := size_problem(sample, shown) or decode_problem(sample):
            return image_problem
        sizes.update(f"{width}x{height}" for width, height in shown)
        if shown:
            meta["image_size"] = list(shown[image_index(sample)])
        view = dataclasses.replace(sample.view, coords=sample.view.coords or coords)
        sample = dataclasses.replace(sample, meta=meta, view=view)
        problem = row_fault(sample) if is_built_in(task) else None
        problem = problem or answer_problem_of(task, sample)
        if problem is None and not is_built_in(task):
            try_once(choose(None, [sample], tasks), [sample])
    except ValueError as error:
        return str(error)
    return problem or _oracle_problem(sample, task)


def _oracle_problem(sample: Sample, task: Task) -> str | None:
    """Whether the reference answer, written and read again, is right by the task's metric and earns full marks with the row's
    own rewards; of a reward without an upper bound, more than nothing."""
    if task.oracle is None or task.is_episode(sample):
        return None  # right play does not win every deal
    text = task.oracle(sample)
    rewards = [load_reward(spec) for spec in own_specs(sample, {sample.task: task})]
    compares = any("group" in reward.needs for reward in rewards)
    by_metric = (compares or not is_built_in(task)) and not task.parallel(sample)
    if by_metric:
        rows = measure(task, [sample], [Prediction(sample.id, text, 1, False)])
        if rows and rows[0].outcome != "right":
            return f"the reference answer {text!r} is {rows[0].outcome} by the task's metric (read: {rows[0].answer!r})"
    if compares:  # what a completion earns depends on the others of its group
        return _metric_problem(sample, task, text) if is_built_in(task) and by_metric else None
    for reward in rewards:
        if reward.needs & {"network", "base", "n_tokens", "model"} or reward.high <= 0:
            continue
        score = score_rows(reward, [text], [sample], 0, None)[0]
        least = _least(reward, sample)
        if score.value is None or score.value < least:
            return f"the reference answer {text!r} earns {score.value}{_most(reward)} from {reward.name}: {score.why}"
        problem = _spelling_problem(sample, reward, text) if reward.name in REWARDS and math.isfinite(reward.high) else None
        if problem:
            return problem
    return None


def _least(reward: Reward, sample: Sample) -> float:
    """What counts as full marks."""
    return reward.high - ROUNDING[sample.coords] if math.isfinite(reward.high) else 1e-9


def _most(reward: Reward) -> str:
    return f" of {reward.high:g}" if math.isfinite(reward.high) else ""


def _spelling_problem(sample: Sample, reward: Reward, reference: str) -> str | None:
    """Whether the reference answer loses by another spelling, or loses nothing by another number, letter, label or box. Rewards
    on the form alone, and by the share of right words, are not asked."""
    if reward.name in (*FORMS, *BY_SHARED_WORDS):
        return None
    spellings = other_spellings(sample, reference)
    texts = [*spellings.same, *spellings.changed]
    scores = [score_rows(reward, [text], [sample], 0, None)[0] for text in texts]
    least, n_same = _least(reward, sample), len(spellings.same)
    for text, score in zip(texts[:n_same], scores[:n_same], strict=True):
        if score.value is None or score.value < least:
            return (
                f"the reference answer spelled as {text!r} earns {score.value}{_most(reward)} from {reward.name}: {score.why}"
            )
    for text, score in zip(texts[n_same:], scores[n_same:], strict=True):
        if score.value is not None and score.value >= least:
            return f"the wrong answer {text!r} earns {score.value}{_most(reward)} from {reward.name}: {score.why}"
    return None


def _metric_problem(sample: Sample, task: Task, reference: str) -> str | None:
    """As `_spelling_problem`, by the task's metric, for rewards that compare the completions of a group."""
    spellings = other_spellings(sample, reference)
    for texts, is_right in ((spellings.same, True), (spellings.changed, False)):
        for text in texts:
            rows = measure(task, [sample], [Prediction(sample.id, text, 1, False)])
            if rows and (rows[0].outcome == "right") != is_right:
                what = "the reference answer spelled as" if is_right else "the wrong answer"
                return f"{what} {text!r} is {rows[0].outcome} by the task's metric (read: {rows[0].answer!r})"
    return None
