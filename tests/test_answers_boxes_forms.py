"""The same boxes in every form that models write are the same answer, to every reward; with a "none" beside them, none at all."""

import json
import math
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.answers.boxes import Frame, ParsedBoxes, parse_boxes
from vlrl.rewards import REWARDS
from vlrl.schema import Sample

CATEGORIES = ("dog", "cat", "traffic light", "狗")
FRAME = Frame(categories=CATEGORIES)
FULL_WIDTH = str.maketrans({",": "，", ":": "：", "[": "【", "]": "】", **{str(d): chr(0xFF10 + d) for d in range(10)}})


def items_with(box_key, label_key, written=list):
    return lambda boxes: json.dumps([{box_key: written(box), label_key: label} for box, label in boxes], ensure_ascii=False)


def by_label(boxes):
    found = {}
    for box, label in boxes:
        found.setdefault(label, []).append(box)
    return found


def tokens(label_open, label_close, box_open, box_close, written, between=""):
    return lambda boxes: between.join(f"{label_open}{name}{label_close}{box_open}{written(b)}{box_close}" for b, name in boxes)


def corner_text(box):
    return f"({box[0]},{box[1]}),({box[2]},{box[3]})"


PLAIN = items_with("bbox_2d", "label")
FORMS = {
    "json": PLAIN,
    "indented": lambda boxes: json.dumps(json.loads(PLAIN(boxes)), indent=2),
    "python": lambda boxes: str(json.loads(PLAIN(boxes))),
    "other keys": items_with("box_2d", "class_name"),
    "more keys": items_with("Bounding Box", "object"),
    "texts": items_with("bbox", "category", lambda box: ", ".join(map(str, box))),
    "corner texts": items_with("bbox", "name", corner_text),
    "nested": items_with("bbox_2d", "label", lambda box: [box]),
    "corner points": items_with("bbox_2d", "label", lambda box: [box[:2], box[2:]]),
    "named corners": items_with("box", "label", lambda box: dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))),
    "sides": items_with("box", "class", lambda box: dict(zip(("left", "top", "right", "bottom"), box, strict=True))),
    "wrapped": lambda boxes: f'{{"objects": {PLAIN(boxes)}, "count": {len(boxes)}}}',
    "wrapped twice": lambda boxes: f'{{"result": {{"detections": {PLAIN(boxes)}}}}}',
    "by label": lambda boxes: json.dumps(by_label(boxes), ensure_ascii=False),
    "parallel lists": lambda boxes: json.dumps({"bboxes": [b for b, _ in boxes], "labels": [name for _, name in boxes]}),
    "no commas": lambda boxes: PLAIN(boxes).replace("}, {", "}\n{"),
    "no brackets": lambda boxes: PLAIN(boxes)[1:-1],
    "one a line": lambda boxes: PLAIN(boxes)[1:-1].replace("}, {", "}\n{"),
    "lists": lambda boxes: json.dumps([[name, box] for box, name in boxes], ensure_ascii=False),
    "lines": lambda boxes: "\n".join(f"{name}: {box}" for box, name in boxes),
    "list of lines": lambda boxes: "\n".join(f"{i}. {name}: {box}" for i, (box, name) in enumerate(boxes, start=1)),
    "bare lines": lambda boxes: "\n".join(f"{name}: {', '.join(map(str, box))}" for box, name in boxes),
    "sentence": lambda boxes: "There is " + " and ".join(f"a {name} at {box}" for box, name in boxes) + ".",
    "Qwen2-VL": tokens("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", corner_text),
    "Qwen2-VL in words": tokens("<|object_ref_start|>", "<|object_ref_end|>", "位于<|box_start|>", "<|box_end|>", list, "，"),
    "InternVL": tokens("<ref>", "</ref>", "<box>", "</box>", lambda box: [box], "\n"),
    "DeepSeek-VL2": tokens("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>", lambda box: [box]),
    "dropped tokens": tokens("", "", "", "", corner_text),
    "fence": lambda boxes: f"Here:\n```python\n{PLAIN(boxes)}\n```\nDone.",
    "full width": lambda boxes: PLAIN(boxes).translate(FULL_WIDTH),
    "yaml": lambda boxes: "```yaml\n" + "\n".join(f"- bbox: {box}\n  label: {name}" for box, name in boxes) + "\n```",
}  # fmt: skip
SEEDS = st.integers(0, 2**32)
"""One number an example: drawing whole lists takes hypothesis ten times as long as reading them."""
THOROUGH = settings(max_examples=2000, deadline=None)


def one_box(rng):
    x, y = rng.randint(0, 900), rng.randint(0, 900)
    return [x, y, x + rng.randint(1, 99), y + rng.randint(1, 99)]


def example(seed):
    """One to four boxes with labels, the name of a form, and what draws more."""
    rng = random.Random(seed)
    boxes = [(one_box(rng), rng.choice(CATEGORIES)) for _ in range(rng.randint(1, 4))]
    return boxes, rng.choice(sorted(FORMS)), rng


def read(text):
    parsed = parse_boxes(text, FRAME)
    assert isinstance(parsed, ParsedBoxes), (parsed, text)
    assert parsed.all_valid
    return Counter((box.xyxy, box.label) for box in parsed.items)


def expected(boxes):
    return Counter((tuple(map(float, box)), label) for box, label in boxes)


@THOROUGH
@given(SEEDS)
def test_every_form_is_the_same_answer(seed):
    boxes, form, _ = example(seed)
    assert read(FORMS[form](boxes)) == expected(boxes), form


@THOROUGH
@given(SEEDS)
def test_a_changed_corner_is_another_answer(seed):
    boxes, form, rng = example(seed)
    (box, label), corner, by = boxes[0], rng.randint(0, 3), rng.randint(1, 40)
    changed = [*box]
    changed[corner] += by if corner > 1 else -by
    assert read(FORMS[form]([(changed, label), *boxes[1:]])) != expected(boxes), form


NONES = ["None", "None.", "null", "No objects.", "There is no dog, cat, traffic light or 狗 in the image.", "没有目标。", "Keine Objekte", "ninguno"]  # fmt: skip


@THOROUGH
@given(SEEDS)
def test_a_none_beside_boxes_is_no_answer(seed):
    boxes, form, rng = example(seed)
    parts = [FORMS[form](boxes), rng.choice(NONES)]
    assert isinstance(parse_boxes("\n".join(rng.sample(parts, 2)), FRAME), str), (form, parts[1])


@THOROUGH
@given(SEEDS)
def test_every_reward_reads_every_form(seed):
    boxes, form, rng = example(seed)
    name = rng.choice(["iou_f1", "json_format", "vlm_r1_map", "visual_rft_iou"])
    answer = [{"bbox_2d": box, "label": label} for box, label in boxes]
    sample = Sample("1", "detection", ", ".join(CATEGORIES), answer, meta={"categories": list(CATEGORIES)})
    plain, other = (
        REWARDS[name].function(f"<think>t</think><answer>{write(boxes)}</answer>", sample).value
        for write in (PLAIN, FORMS[form])
    )
    assert math.isclose(plain, other), (form, plain, other)
    assert name != "json_format" or other == 1


@THOROUGH
@given(SEEDS)
def test_two_boxes_of_one_object_are_none_unless_they_agree(seed):
    _, _, rng = example(seed)
    first = one_box(rng)
    second = rng.choice([first, one_box(rng)])
    text = f'[{{"bbox_2d": {first}, "{rng.choice(["bbox_2d", "bbox", "box", "Position"])}": {second}, "label": "dog"}}]'
    assert isinstance(parse_boxes(text, FRAME), ParsedBoxes) == (first == second)
