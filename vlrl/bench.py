"""`python -m vlrl.bench`: a model's answers and their numbers, text scored without a model, data checked row by row, speed.

Sub-commands: `list`, `run`, `score`, `diff` (`vlrl.bench_run`), `grade`, `check`, `speed` (`vlrl.speed`; of rewards: here).
`list`, `grade`, `check` and `speed --what rewards` need neither a model nor torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlrl import bench_run, speed
from vlrl.flags import with_underscores
from vlrl.payment import own_rewards
from vlrl.rewards import REWARDS, load_reward
from vlrl.rewards.grading import grade, options_in
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Sample, SampleError, Score, read_samples
from vlrl.tasks import TASKS

ROUNDING = {"px": 1e-3, "norm1000": 0.05, "norm1": 0.01}
"""What writing the right answer in a dialect may cost of a reward."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 bad rows were found, 2 the input cannot be used (`speed` has codes of its own)."""
    words = with_underscores(sys.argv[1:] if argv is None else argv)
    args = command_line().parse_args(words)
    if args.command == "speed":
        args.run = rewards_a_second if args.what == "rewards" else lambda _: speed.main(_without_what(words[1:]))
    try:
        return int(args.run(args))
    except (SampleError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def command_line() -> argparse.ArgumentParser:
    """All sub-commands."""
    parser = argparse.ArgumentParser(prog="vlrl.bench", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="tasks and rewards, with ranges, needs and options").set_defaults(run=show)
    graded = commands.add_parser("grade", help="score completions from a file")
    graded.add_argument("--reward", required=True, help="NAME[:option=value,...] or path/to/file.py:function")
    graded.add_argument("--cases", required=True, type=Path, help='JSONL of {"sample": ..., "completion": ...}')
    graded.add_argument("--out", required=True, type=Path, help="JSONL of scores, one line a case; replaced if it exists")
    graded.set_defaults(run=grade_file)
    checked = commands.add_parser("check", help="check every row of a data file and that its right answer earns full marks")
    checked.add_argument("--data", required=True, type=Path)
    checked.add_argument("--image_root", type=Path)
    checked.add_argument("--coords", choices=sorted(ROUNDING), default="px")
    checked.set_defaults(run=check_file)
    bench_run.add_commands(commands)
    timed = commands.add_parser("speed", help="steps of the trainer against stock TRL; or rewards a second")
    timed.add_argument("--what", choices=["trainer", "rewards"], default="trainer")
    timed.add_argument("--json", type=Path, help="--what rewards: write the numbers here too")
    speed.add_arguments(timed)
    return parser


def _without_what(words: Sequence[str]) -> list[str]:
    """The flags of `speed` without those that chose it."""
    left = list(words)
    for i, word in enumerate(left):
        if word in ("--what", "--what=trainer"):
            return left[:i] + left[i + (2 if word == "--what" else 1) :]
    return left


def show(args: argparse.Namespace) -> int:
    from vlrl.rewards import options_of

    for task in TASKS.values():
        print(f"task    {task.name:16} headline {task.headline}")
    for reward in REWARDS.values():
        first = (reward.function.__doc__ or "").strip().splitlines()[0]
        needs = f", needs {' '.join(sorted(reward.needs))}" if reward.needs else ""
        options = "".join(f" {name}={p.default}" for name, p in options_of(reward).items())
        print(
            f"reward  {reward.name:26} {reward.low:g}..{reward.high:g}{needs}; {first}"
            + (f" [options:{options}]" if options else "")
        )
    return 0


def grade_file(args: argparse.Namespace) -> int:
    load_reward(args.reward)
    lines = []
    text = args.cases.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{args.cases}:{number}"
        try:
            case = json.loads(line)
        except json.JSONDecodeError as error:
            raise SampleError(f"{where}: not a line of JSON: {error}") from error
        if not isinstance(case, dict):
            raise SampleError(f"{where}: a case is a JSON object, got {type(case).__name__}")
        extra = options_in(case)
        spec = args.reward
        if extra:
            spec += ("," if spec.count(":") > spec.count(".py:") else ":") + extra
        scores = grade(load_reward(spec), case, where, args.cases.parent)
        lines.append(json.dumps(_as_json(scores, "completions" in case), ensure_ascii=True))
    partial = args.out.with_suffix(args.out.suffix + ".partial")
    partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    partial.replace(args.out)
    print(f"{len(lines)} cases")
    print(args.out)
    return 0


def _as_json(scores: Sequence[Score], group: bool) -> dict[str, Any]:
    if group:
        answers = [score.answer for score in scores]
        return {"values": [score.value for score in scores], "answers": answers, "why": [score.why for score in scores]}
    score = scores[0]
    return {"value": score.value, "answer": score.answer, "why": score.why}


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
    task = TASKS.get(sample.task)
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
        from vlrl.synthetic import draw

        return draw(path).size
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).size


def _oracle_problem(sample: Sample) -> str | None:
    """Whether the right answer, written and read again, earns full marks with the row's own rewards."""
    task = TASKS[sample.task]
    text = task.oracle(sample)
    if sample.task == "planning":
        from vlrl.words import read_plan

        plan, why = read_plan(text, sample)
        right = plan is not None and (plan.speed, plan.path) == (sample.answer["speed"], sample.answer["path"])
        return None if right else f"the right plan is not read back from {text!r}: {why or plan}"
    for name in own_rewards(sample, TASKS):
        reward = load_reward(name)
        if reward.needs & {"network", "base", "n_tokens"} or reward.high <= 0:
            continue
        score = score_rows(reward, [text], [sample], 0, None)[0]
        if score.value is None or score.value < reward.high - ROUNDING[str(sample.meta["coords"])]:
            return f"the right answer {text!r} earns {score.value} of {reward.high:g} from {name}: {score.why}"
    return None


# -- speed ---------------------------------------------------------------------------------------------------------------

N_BOXES, N_REPEATS, N_TEXTS = 5, 5, 400


def rewards_a_second(args: argparse.Namespace) -> int:
    """Completions a second on one core (CPU time, median of five) of every reward, beside AP through pycocotools."""
    rows = []
    for label, reward, sample, texts in _speed_cases():
        rate = _rate(
            lambda r=reward, s=sample, t=texts: score_rows(r, t, [s] * len(t), 7, [40] * len(t), [1.0] * len(t)), len(texts)
        )
        rows.append({"what": label, "per_second": round(rate)})
        print(f"{label:58} {rate:10,.0f} completions/s", flush=True)
    sample, texts = _boxes_case("px")
    rate = _rate(lambda: [_official_ap(text, sample) for text in texts[:20]], 20)
    rows.append({"what": "AP of one completion through pycocotools", "per_second": round(rate)})
    print(f"{'AP of one completion through pycocotools':58} {rate:10,.0f} completions/s")
    for n in (64, 512):
        rows.append(_pool_row(n))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(args.json)
    return 0


def _rate(work: Callable[[], Any], n: int) -> float:
    """`n` per median CPU second of `work`, after one run to warm up."""
    work()
    seconds = []
    for _ in range(N_REPEATS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return n / statistics.median(seconds)


def _boxes_case(coords: str, form: str = "json") -> tuple[Sample, list[str]]:
    """A detection sample of five boxes and completions of five boxes each, some of them off."""
    from vlrl.tasks.wording import lay_out, write_boxes

    boxes = [[40 + 100 * i, 50 + 60 * i, 120 + 100 * i, 150 + 60 * i] for i in range(N_BOXES)]
    labels = ["dog", "cat", "dog", "cat", "dog"]
    if form == "position_confidence":
        labels = ["dog"] * N_BOXES
    answer = [{"bbox_2d": box, "label": label} for box, label in zip(boxes, labels, strict=True)]
    meta = {
        "categories": sorted(set(labels)),
        "coords": coords,
        "image_size": [640, 480],
        "input_size": [644, 476],
        "box_format": form,
    }
    sample = Sample("speed", "detection", ", ".join(sorted(set(labels))), answer, ("a.jpg",), meta=meta)
    texts = []
    for k in range(N_TEXTS):
        moved = [
            {**item, "bbox_2d": [v + (k * 7 + i * 13 + j * 5) % 41 - 20 for j, v in enumerate(item["bbox_2d"])]}
            for i, item in enumerate(answer)
        ]
        texts.append(lay_out(f"five things {k}", write_boxes(moved, sample), sample))
    return sample, texts


def _speed_cases() -> list[tuple[str, Any, Sample, list[str]]]:
    found: list[tuple[str, Any, Sample, list[str]]] = []
    forms = [("px", "json"), ("px", "fenced_json"), ("px", "position_confidence"), ("norm1000", "json"), ("resized_px", "json")]
    for coords, form in forms:
        sample, texts = _boxes_case(coords, form)
        found.append((f"iou_f1, {form}, {coords}", load_reward("iou_f1"), sample, texts))
    sample, texts = _boxes_case("px")
    for name, reward in REWARDS.items():
        if name == "iou_f1" or "network" in reward.needs:
            continue
        if not reward.tasks or "detection" in reward.tasks:
            found.append((f"{name}, 5 boxes against 5", reward, sample, texts))
            continue
        task = TASKS[sorted(reward.tasks)[0]]
        samples = [s for s in (task.synthetic(0, "speed", i) for i in range(40)) if name in task.rewards(s)] or [
            task.synthetic(0, "speed", 0)
        ]
        found.append((f"{name}, the right answer", reward, samples[0], [task.oracle(samples[0])] * N_TEXTS))
    return found


def _official_ap(text: str, sample: Sample) -> Any:
    from vlrl.answers import read_boxes, true_boxes
    from vlrl.metrics.coco import DetectionRow, official_evaluation

    parsed, _ = read_boxes(text, sample)
    predicted = () if parsed is None else parsed.items
    judged = official_evaluation([DetectionRow("speed", "a.jpg", true_boxes(sample), predicted)])
    judged.accumulate()
    return judged


def _pool_row(n: int) -> dict[str, Any]:
    """Wall time of `n` completions of the slowest box reward, one after the other and in two processes."""
    from concurrent.futures import ProcessPoolExecutor

    sample, texts = _boxes_case("px")
    texts = (texts * (n // len(texts) + 1))[:n]
    _scores_of(("vlm_r1_map", texts[:20], sample))
    started = time.perf_counter()
    _scores_of(("vlm_r1_map", texts, sample))
    serial = time.perf_counter() - started
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_scores_of, [("vlm_r1_map", texts[:2], sample)] * 2))
        started = time.perf_counter()
        list(pool.map(_scores_of, [("vlm_r1_map", texts[: n // 2], sample), ("vlm_r1_map", texts[n // 2 :], sample)]))
        pooled = time.perf_counter() - started
    print(f"{n} completions of vlm_r1_map: {1000 * serial:.1f} ms in line, {1000 * pooled:.1f} ms in a running pool of two")
    return {"what": f"vlm_r1_map, {n} completions", "in_line_ms": 1000 * serial, "pool_ms": 1000 * pooled}


def _scores_of(job: tuple[str, list[str], Sample]) -> list[float | None]:
    name, texts, sample = job
    return [score.value for score in score_rows(load_reward(name), texts, [sample] * len(texts), 0, None)]


if __name__ == "__main__":
    done = main()
    if "WORLD_SIZE" in os.environ:
        from vlrl.train import leave

        leave(done)
    sys.exit(done)
