"""Questions about scenes of coloured shapes: all boxes of a category, the one object that an expression refers to, the class of
an image, and short questions whose answer is a letter, a word or a number.

Noisy labels, which the cold start is trained on, err in one way per task. Boxes are 10 to 35 % too large on each side. Three of
the six colours are named after a similar colour, in six of ten samples. In qa six of ten answers are replaced: numbers by one
less, others by "yes", "A" or "first".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vlrl.data.synthetic.items import IMAGE_SIDE_PX, address, item_rng
from vlrl.data.synthetic.scenes import CATEGORIES, COLOURS, SHAPE_NAMES, Scene, SceneObject, loosen, scene
from vlrl.schema import Sample

LABEL_NOISE_RATE = 0.6
"""Share of the noisy labels of classification and qa that are replaced, where a wrong one exists."""
CONFUSED_COLOURS = {"orange": "red", "purple": "blue", "yellow": "green"}
"""Colour -> the similar colour that noisy labels of classification take it for."""
N_CHOICES = 6


def _forms(task: str, split: str, rng: np.random.Generator) -> dict[str, str]:
    """Box format and answer format of a sample in a cold-start split, so that the model learns more than the default ones."""
    if not split.startswith("coldstart") or rng.random() < 0.5:
        return {}
    if task == "detection":
        box, layout = _pick(rng, ["fenced_json/none", "fenced_json/think_answer", "position_confidence/think_answer"]).split(
            "/"
        )
        return {"box_format": box, "answer_format": layout}
    if task == "grounding":
        return {"box_format": "corners"}
    return {"answer_format": _pick(rng, ["none", "none", "answer", "answer_think"])}


def _pick(rng: np.random.Generator, options: list[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def _sample(task: str, split: str, seed: int, index: int, n_images: int = 1, **fields: Any) -> Sample:
    meta = fields.pop("meta", {})
    if n_images:
        meta["image_size"] = [IMAGE_SIDE_PX, IMAGE_SIDE_PX]
    return Sample(
        id=f"synthetic-{task}-{split}-{seed}-{index}",
        task=task,
        images=tuple(address(task, split, seed, index, number) for number in range(n_images)),
        meta={**meta, "dataset": "synthetic", "split": split},
        **fields,
    )


def detection_sample(seed: int, split: str, index: int) -> Sample:
    """Scene `index` and a category to find: one that is present (5 in 6), or an absent one."""
    drawn = scene("detection", split, seed, index)
    rng = item_rng("question", "detection", split, seed, index)
    present = sorted({item.category for item in drawn.objects})
    choices = present if rng.random() < 5 / 6 else [name for name in CATEGORIES if name not in present]
    category = choices[int(rng.integers(len(choices)))]
    found = sorted(item.box_px for item in drawn.objects if item.category == category)
    loose: list[dict[str, Any]] = [{"bbox_2d": loosen(box, rng), "label": category} for box in found]
    if split.startswith("coldstart"):
        for item in loose:
            item["confidence"] = round(float(rng.uniform(0.5, 1.0)), 2)
    meta = {"categories": [category], "loose_answer": loose, **_forms("detection", split, rng)}
    answer = [{"bbox_2d": list(box), "label": category} for box in found]
    return _sample("detection", split, seed, index, question=category, answer=answer, meta=meta)


def _area(item: SceneObject) -> int:
    x1, y1, x2, y2 = item.box_px
    return (x2 - x1) * (y2 - y1)


_ORDERS: dict[str, tuple[Callable[[SceneObject], float], float]] = {
    "leftmost": (lambda item: item.box_px[0] + item.box_px[2], 12),
    "rightmost": (lambda item: -item.box_px[0] - item.box_px[2], 12),
    "topmost": (lambda item: item.box_px[1] + item.box_px[3], 12),
    "lowest": (lambda item: -item.box_px[1] - item.box_px[3], 12),
    "largest": (lambda item: -np.log(_area(item)), 0.4),
    "smallest": (lambda item: np.log(_area(item)), 0.4),
}
"""Superlative -> a key that is smallest for the object it refers to, and the margin to every other object."""


def _expressions(drawn: Scene) -> list[tuple[str, SceneObject]]:
    """Every expression that refers to exactly one object of the scene, and that object."""
    found = []
    for item in drawn.objects:
        colour, shape = item.category.split()
        others = [other for other in drawn.objects if other is not item]
        if all(other.category != item.category for other in others):
            found.append((f"the {item.category}", item))
        if all(other.category.split()[0] != colour for other in others):
            found.append((f"the {colour} object", item))
        if all(other.category.split()[1] != shape for other in others):
            found.append((f"the {shape}", item))
        for word, (key, margin) in _ORDERS.items():
            if others and all(key(item) + margin <= key(other) for other in others):
                found.append((f"the {word} object", item))
    return found


def grounding_sample(seed: int, split: str, index: int) -> Sample:
    """Scene `index` and an expression that refers to one of its objects: by colour, shape, place or size."""
    drawn = scene("grounding", split, seed, index)
    rng = item_rng("question", "grounding", split, seed, index)
    kinds = _expressions(drawn)
    # No expression fits where all objects are of one category, equally large and close together: take the leftmost one.
    question, item = _pick(rng, kinds) if kinds else ("the leftmost object", min(drawn.objects, key=lambda o: o.box_px[0]))
    meta = {"loose_answer": {"bbox_2d": loosen(item.box_px, rng)}, "thinking": item.category, **_forms("grounding", split, rng)}
    return _sample("grounding", split, seed, index, question=question, answer={"bbox_2d": list(item.box_px)}, meta=meta)


def classification_sample(seed: int, split: str, index: int) -> Sample:
    """One object and six names to choose from, among them the names with a similar colour."""
    label = scene("classification", split, seed, index).objects[0].category
    rng = item_rng("question", "classification", split, seed, index)
    colour, shape = label.split()
    neighbours = [f"{other} {shape}" for other in (CONFUSED_COLOURS.get(colour), *_called_by(colour)) if other]
    others = [name for name in CATEGORIES if name != label and name not in neighbours]
    drawn = rng.choice(len(others), size=N_CHOICES - 1 - len(neighbours), replace=False)
    choices = [label, *neighbours, *(others[int(i)] for i in drawn)]
    choices = [choices[int(i)] for i in rng.permutation(len(choices))]
    is_noisy = colour in CONFUSED_COLOURS and rng.random() < LABEL_NOISE_RATE
    loose = f"{CONFUSED_COLOURS[colour]} {shape}" if is_noisy else label
    meta = {"loose_answer": loose, **_forms("classification", split, rng)}
    return _sample(
        "classification",
        split,
        seed,
        index,
        question="What does the picture show?",
        answer=label,
        choices=tuple(choices),
        meta=meta,
    )


def _called_by(colour: str) -> list[str]:
    return [other for other, neighbour in CONFUSED_COLOURS.items() if neighbour == colour]


def qa_sample(seed: int, split: str, index: int) -> Sample:
    """A question of one of five kinds: a letter (colour of a shape), yes or no (is it there), a number (how many), a sum
    (without an image), or which of two images shows more objects."""
    rng = item_rng("question", "qa", split, seed, index)
    kind = _pick(rng, [_letter_question, _presence_question, _count_question, _sum_question, _pair_question])
    fields = kind(rng, split, seed, index)
    noisy_answer = fields.pop("loose")
    loose = noisy_answer if rng.random() < LABEL_NOISE_RATE else fields["answer"]
    return _sample("qa", split, seed, index, meta={"loose_answer": loose, **_forms("qa", split, rng)}, **fields)


def _letter_question(rng: np.random.Generator, split: str, seed: int, index: int) -> dict[str, Any]:
    objects = scene("qa", split, seed, index).objects
    colour, shape = _pick(rng, list(objects)).category.split()
    if any(other.category.split()[1] == shape and other.category.split()[0] != colour for other in objects):
        question = "Which colour does the picture show"
        absent = [name for name in COLOURS if all(other.category.split()[0] != name for other in objects)]
    else:
        question, absent = f"Which colour is the {shape}", [name for name in COLOURS if name != colour]
    choices = [colour, *(absent[int(i)] for i in rng.permutation(len(absent))[:2])]
    choices = [choices[int(i)] for i in rng.permutation(len(choices))]
    answer = "ABC"[choices.index(colour)]
    return {"question": question + "?", "choices": tuple(choices), "answer": answer, "loose": "A"}


def _presence_question(rng: np.random.Generator, split: str, seed: int, index: int) -> dict[str, Any]:
    present = {item.category for item in scene("qa", split, seed, index).objects}
    there = rng.random() < 0.5
    category = _pick(rng, sorted(present) if there else [name for name in CATEGORIES if name not in present])
    return {"question": f"Is there a {category}?", "answer": "yes" if there else "no", "loose": "yes"}


def _count_question(rng: np.random.Generator, split: str, seed: int, index: int) -> dict[str, Any]:
    names = [item.category for item in scene("qa", split, seed, index).objects]
    shape = _pick(rng, ["object", *SHAPE_NAMES])
    n = sum(shape == "object" or name.split()[1] == shape for name in names)
    return {"question": f"How many {shape}s are there?", "answer": n, "loose": max(0, n - 1)}


def _sum_question(rng: np.random.Generator, split: str, seed: int, index: int) -> dict[str, Any]:
    a, b = (int(v) for v in rng.integers(1, 21, size=2))
    return {"question": f"What is {a} + {b}?", "answer": a + b, "loose": a + b - 1, "n_images": 0}


def _pair_question(rng: np.random.Generator, split: str, seed: int, index: int) -> dict[str, Any]:
    first, second = (len(scene("qa", split, seed, index, number).objects) for number in (0, 1))
    if first == second or rng.random() < 0.5:
        question, answer, loose = "Do both pictures show equally many objects?", "yes" if first == second else "no", "yes"
    else:
        question, loose = "Which picture shows more objects, first or second?", "first"
        answer = "first" if first > second else "second"
    return {"question": question, "answer": answer, "loose": loose, "n_images": 2}
