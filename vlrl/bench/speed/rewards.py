"""`speed --what rewards`: completions a second of every reward."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from vlrl.answers.kind import BOXES, answer_kinds
from vlrl.rewards import REWARDS, load_reward
from vlrl.rewards.scoring import score_rows
from vlrl.schema import ModelView, Sample
from vlrl.tasks import KNOWN
from vlrl.tasks.rubric import own_rewards

N_BOXES, N_REPEATS, N_TEXTS = 5, 5, 400


def measure_rewards(args: argparse.Namespace) -> int:
    """Completions a second on one core (CPU time, median of five) of every reward, beside AP through pycocotools."""
    rows: list[dict[str, Any]] = []
    for label, reward, sample, texts in _speed_cases():
        rate = cpu_rate(partial(_score, reward, sample, texts), len(texts))
        rows.append({"what": label, "per_second": round(rate)})
        print(f"{label:58} {rate:10,.0f} completions/s", flush=True)
    sample, texts = _boxes_case("px")
    rate = cpu_rate(lambda: [_official_ap(text, sample) for text in texts[:20]], 20)
    rows.append({"what": "AP of one completion through pycocotools", "per_second": round(rate)})
    print(f"{'AP of one completion through pycocotools':58} {rate:10,.0f} completions/s")
    for n in (64, 512):
        rows.append(_pool_row(n))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(args.json)
    return 0


def _score(reward: Any, sample: Sample, texts: list[str]) -> Any:
    return score_rows(reward, texts, [sample] * len(texts), 7, [40] * len(texts), [1.0] * len(texts))


def cpu_rate(work: Callable[[], Any], n: int) -> float:
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
    from vlrl.tasks.answer_format import lay_out, write_boxes

    boxes = [[40 + 100 * i, 50 + 60 * i, 120 + 100 * i, 150 + 60 * i] for i in range(N_BOXES)]
    labels = ["dog", "cat", "dog", "cat", "dog"]
    if form == "position_confidence":
        labels = ["dog"] * N_BOXES
    answer: list[dict[str, Any]] = [{"bbox_2d": box, "label": label} for box, label in zip(boxes, labels, strict=True)]
    meta = {
        "categories": sorted(set(labels)),
        "image_size": [640, 480],
        "box_format": form,
    }
    view = ModelView(coords, (644, 476))
    sample = Sample("speed", "detection", ", ".join(sorted(set(labels))), answer, ("a.jpg",), meta=meta, view=view)
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
        if name == "iou_f1" or reward.needs & {"network", "model"}:
            continue
        if not reward.answers or BOXES in reward.answers:
            found.append((f"{name}, 5 boxes against 5", reward, sample, texts))
            continue
        drawn = [(task, task.draw(0, "speed", i)) for task in KNOWN.values() for i in range(8)]
        scored = [(task, sample) for task, sample in drawn if reward.answers & answer_kinds(sample)]
        task, own = next(((task, one) for task, one in scored if name in own_rewards(one, KNOWN)), scored[0])
        found.append((f"{name}, the right answer", reward, own, [task.reference(own)] * N_TEXTS))
    return found


def _official_ap(text: str, sample: Sample) -> Any:
    from vlrl.answers.read import read_boxes, true_boxes
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
