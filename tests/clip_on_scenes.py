"""Rows of docs/results.md on `clip`: `python tests/clip_on_scenes.py --out FOLDER` trains a small CLIP model on drawn scenes, and
measures on other scenes whether it tells right from wrong, by the reward itself."""

import argparse
import dataclasses
import json
import random
import time
from functools import partial
from pathlib import Path

from tiny_clip import ANY, NOTHING, TEXTS, train_clip

from vlrl.data.image_views import ImageView
from vlrl.data.synthetic.items import IMAGE_SIDE_PX, item_rng
from vlrl.data.synthetic.scenes import CATEGORIES, scene
from vlrl.data.synthetic.shapes import grounding_sample
from vlrl.models.image_text_models import ImageTextModel
from vlrl.rewards import load_reward, score_rows

SPLIT = "test"
WRONG = ("another object", "the background", "the whole image", "twice as large", "half of it")


def chosen_right(model, n):
    """Of the objects of `n` held-out scenes: whether the text of its own category is the nearest of all eighteen."""
    views, right = [], []
    for index in range(n):
        for one in scene("grounding", SPLIT, 0, index).objects:
            views.append(ImageView(f"synthetic:grounding/{SPLIT}/0/{index}", tuple(map(float, one.box_px))))
            right.append(CATEGORIES.index(one.category))
    images_NE, texts_ME = model(views, [f"the {name}" for name in CATEGORIES])
    return [float(best == true) for best, true in zip((images_NE @ texts_ME.T).argmax(1), right, strict=True)]


def places(index, sample):
    """The right box of a grounding row, and wrong ones by kind."""
    true = sample.answer["bbox_2d"]
    rng = item_rng("wrong", index)
    x1, y1, x2, y2 = true
    width, height, side = x2 - x1, y2 - y1, IMAGE_SIDE_PX
    objects = scene("grounding", SPLIT, 0, index).objects
    named = sample.question.removeprefix("the ").removesuffix(" object")
    wrong = {"another object": [list(one.box_px) for one in objects if list(one.box_px) != true and named not in one.category]}
    free = []
    for _ in range(50):
        x, y = rng.uniform(0, side - width), rng.uniform(0, side - height)
        box = [x, y, x + width, y + height]
        if all(box[0] > o.box_px[2] or box[2] < o.box_px[0] or box[1] > o.box_px[3] or box[3] < o.box_px[1] for o in objects):
            free = [box]
            break
    wrong["the background"] = free
    wrong["the whole image"] = [[0, 0, side, side]]
    wide = [max(0, x1 - width / 2), max(0, y1 - height / 2), min(side, x2 + width / 2), min(side, y2 + height / 2)]
    wrong["twice as large"] = [wide]
    wrong["half of it"] = [[x1, y1, x1 + width / 2, y2]]
    return true, wrong


def written(box, point):
    x1, y1, x2, y2 = box
    return json.dumps({"point_2d": [(x1 + x2) / 2, (y1 + y2) / 2]} if point else {"bbox_2d": box})


def ranked(reward, n, point):
    """By kind of wrong mark: of pairs of a right and a wrong one of a row, 1 where the right one has more (0.5 where as much).
    Rows that ask by colour or shape alone, which is what a part of an image can show."""
    rows = [(index, grounding_sample(0, SPLIT, index)) for index in range(n)]
    rows = [(index, sample) for index, sample in rows if sample.question in TEXTS]
    pairs = []
    for index, sample in rows:
        true, wrong = places(index, sample)
        kinds = WRONG[:2] if point else WRONG
        pairs += [(kind, index, sample, true, box) for kind in kinds for box in wrong[kind]]
    samples = [sample for _, _, sample, _, _ in pairs]
    right = score_rows(reward, [written(true, point) for *_, true, _ in pairs], samples, 0, None)
    other = score_rows(reward, [written(box, point) for *_, box in pairs], samples, 0, None)
    found = {}
    for (kind, index, *_), a, b in zip(pairs, right, other, strict=True):
        found.setdefault(kind, {}).setdefault(index, []).append(float(a.value > b.value) + 0.5 * (a.value == b.value))
    return {kind: [sum(some) / len(some) for some in rows.values()] for kind, rows in found.items()}


def cell(values, resamples=1000):
    """The mean over rows with its 95 % bootstrap interval."""
    rng = random.Random(0)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(resamples))
    low, high = means[int(0.025 * resamples)], means[int(0.975 * resamples)]
    return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Folder of the model; one that is there is not trained again.")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--n", type=int, default=400, help="Held-out scenes.")
    asked = parser.parse_args()
    started = time.monotonic()
    folder = asked.out / "clip"
    if not (folder / "model.safetensors").is_file():
        train_clip(folder, asked.steps)
        print(f"trained in {time.monotonic() - started:.0f} s")
    specs = {"cosine": f"clip:{folder}"}
    for baseline in (ANY, NOTHING):
        specs |= {f"{baseline!r}, alpha {a}": f"clip:{folder},baseline={baseline},alpha={a}" for a in ("0.25", "0.5", "1")}
    model = ImageTextModel(str(folder), "cpu", 256)  # one for all rewards, so that a part is embedded once
    print(f"right text of 18: {cell(chosen_right(model, asked.n))}, {model.n_parameters:,} weights", flush=True)
    print("| reward | " + " | ".join([*WRONG, *(f"point: {kind}" for kind in WRONG[:2])]) + " |")
    for name, spec in specs.items():
        reward = load_reward(spec)
        reward = dataclasses.replace(reward, function=partial(reward.function, models=model))
        boxes, points = ranked(reward, asked.n, False), ranked(reward, asked.n, True)
        cells = [cell(some[kind]) for some, kinds in ((boxes, WRONG), (points, WRONG[:2])) for kind in kinds]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
