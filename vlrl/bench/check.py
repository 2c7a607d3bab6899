"""`check`: every row of a data file is valid, its images open, and its right answer earns full marks."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter

from vlrl.rewards import load_reward
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Sample, read_samples
from vlrl.tasks import KNOWN
from vlrl.tasks.rubric import own_rewards

ROUNDING = {"px": 1e-3, "norm1000": 0.05, "norm1": 0.01}
"""What writing the right answer in a dialect may cost of a reward."""


def check_file(args: argparse.Namespace) -> int:
    bad: list[str] = []
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    samples = read_samples(args.data, args.image_root)
    for sample in samples:
        counts[sample.task] += 1
        problem = row_problem(sample, args.coords, sizes)
        if problem:
            bad.append(f"{args.data} (id {sample.id!r}): {problem}")
    for task, n in counts.items():
        print(f"{task:16} {n} rows")
    if sizes:
        (commonest, n), n_sizes = sizes.most_common(1)[0], len(sizes)
        print(f"{'images':16} {sum(sizes.values())} in {n_sizes} sizes, most often {commonest} ({n})")
    for line in bad:
        print(f"bad: {line}", file=sys.stderr)
    print(f"{len(samples) - len(bad)} of {len(samples)} rows are good: valid, images open, the right answer earns full marks")
    print(args.data)
    return 1 if bad else 0


def row_problem(sample: Sample, coords: str, sizes: Counter[str]) -> str | None:
    """What is wrong with one row, or None. `sizes` counts the sizes of the images seen."""
    task = KNOWN.get(sample.task)
    if task is None:
        return f"task {sample.task!r} has no rewards here"
    meta = {**sample.meta, "coords": sample.meta.get("coords", coords)}
    for index, path in enumerate(sample.images):
        try:
            width, height = _image_size(path)
        except (OSError, ValueError, SyntaxError) as error:
            return f"image {path} cannot be read: {error}"
        sizes[f"{width}x{height}"] += 1
        if index == int(meta.get("image_index", 0)):
            stated = meta.setdefault("image_size", [width, height])
            if list(stated) != [width, height]:
                return f"meta.image_size is {list(stated)}, but {path} is {[width, height]}"
    sample = dataclasses.replace(sample, meta=meta)
    return task.check(sample) or _oracle_problem(sample)


def _image_size(path: str) -> tuple[int, int]:
    from PIL import Image, ImageOps

    if path.startswith("synthetic:"):
        from vlrl.data.synthetic import draw

        return draw(path).size
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).size


def _oracle_problem(sample: Sample) -> str | None:
    """Whether the right answer, written and read again, earns full marks with the row's own rewards."""
    task = KNOWN[sample.task]
    if task.is_episode(sample):
        return None  # right play does not win every deal
    text = task.oracle(sample)
    if sample.task == "planning":
        from vlrl.answers.text import read_plan

        plan, why = read_plan(text, sample)
        right = plan is not None and (plan.speed, plan.path) == (sample.answer["speed"], sample.answer["path"])
        return None if right else f"the right plan is not read back from {text!r}: {why or plan}"
    for name in own_rewards(sample, KNOWN):
        reward = load_reward(name)
        if reward.needs & {"network", "base", "n_tokens"} or reward.high <= 0:
            continue
        score = score_rows(reward, [text], [sample], 0, None)[0]
        if score.value is None or score.value < reward.high - ROUNDING[str(sample.meta["coords"])]:
            return f"the right answer {text!r} earns {score.value} of {reward.high:g} from {name}: {score.why}"
    return None
