"""One row of a published data set → one sample: VLM-R1, Visual-RFT, CLS-RL and Vision-R1 as their own trainers read them.

The rows stay as they are published; what is added here is the task each belongs to, judged by its answer, and what its
question asks once placeholders and format sentences are gone (the prompt writes its own). Boxes become original pixels.
Every function raises `BadRow` for a row that cannot be used.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.fitting import tidy
from data_prep.rows import BadRow
from vlrl.answers.boxes import ParsedBoxes, parse_boxes
from vlrl.answers.geometry import to_original_px
from vlrl.answers.span import ANSWER, END_ANSWER, answer_span, canon
from vlrl.answers.text import choice_letter, number, yes_or_no
from vlrl.schema import Box, Sample, box_problem


@dataclass(frozen=True)
class Source:
    """A row and what was found out about it. `sizes_wh`: each picture's size as shown, in pixels. `coords`: what unit its
    boxes are in. `clipped`: told of a box that sticks out of its picture and was cut."""

    row: Mapping[str, Any]
    sample_id: str
    images: tuple[str, ...]
    sizes_wh: tuple[tuple[int, int], ...]
    meta: Mapping[str, Any]
    coords: str
    reward_method: str | None
    clipped: Callable[[str], None]


DETECTION_METHODS = {
    "map": "vlm_r1_map",
    "od_ap": "vlm_r1_map",
    "od_ap50": "vlm_r1_map50",
    "odLength": "vlm_r1_odlength",
    "weighted_sum": "vlm_r1_weighted",
}
"""VLM-R1's ways to pay a list of boxes, and the reward that each is here."""
TEXT_METHODS = {
    "mcq": "mcq",
    "yes_no": "yes_no",
    "llm": "llm_judge",
    "math": "math_equal",
    "all_match": "exact_match",
}
LENGTH_METHODS = {"length": "cosine_length", "repetition": "repetition"}
"""These shape an accuracy, so the row's accuracy is paid as well."""
METHODS = ("default", *TEXT_METHODS, *DETECTION_METHODS, *LENGTH_METHODS)
FORMAT = "think_answer_format"

_PLACEHOLDER = re.compile(r"<image>|<video>|<\|vision_start\|>.*?<\|vision_end\|>|<img>.*?</img>", re.DOTALL)
_FORMAT_TALK = re.compile(r"</?think>|</?answer>|thinking process|output answer format|Please strictly follow", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.?!:](?=\s)|\n")
_REGION = re.compile(r"(?:region|object) this sentence describes:\s*(.+)", re.DOTALL | re.IGNORECASE)
_INSTRUCTION = re.compile(r"corresponding to the instruction:\s*(.+)", re.DOTALL | re.IGNORECASE)
_DETECT_LIST = re.compile(r"detect the following objects:\s*(\[.*?\])(?=\s*(?:[.\n]|$))", re.DOTALL | re.IGNORECASE)
_CATEGORY = re.compile(r"belonging to the category '(.+?)' in the image")
_CATEGORY_SET = re.compile(r"category set includes\s+(.+?)\.?\s*$", re.DOTALL | re.IGNORECASE)
_CHOOSE = re.compile(r"choose one from list\s*\[(.*)\]", re.DOTALL | re.IGNORECASE)


def vlm_r1(source: Source) -> Sample:
    """A row of VLM-R1's JSONL (`conversations` of two turns) or of its evaluation files (`problem`, `solution`)."""
    problem, gold = _turns(source.row)
    method = source.row.get("accu_reward_method") or source.reward_method or "default"
    if method not in METHODS:
        raise BadRow(f"unknown accu_reward_method {method!r}; known: {', '.join(METHODS)}")
    if isinstance(gold, str):
        gold = gold.replace(ANSWER, "").replace(END_ANSWER, "").strip()
    asked = _listed_categories(problem)
    boxes = None
    # corner pairs and boxes inside prose are no answers of this data set, and could be points or intervals
    if method not in TEXT_METHODS and (not isinstance(gold, str) or gold.startswith(("[", "{", "```")) or _says_none(gold)):
        boxes = _boxes_in(gold, none_is_empty=method in DETECTION_METHODS or asked is not None)
    if boxes is None and method in DETECTION_METHODS:
        raise BadRow(f"{method} needs a list of boxes, got {str(gold)[:120]!r}")
    if boxes is not None and (method in DETECTION_METHODS or asked is not None or _is_labelled(boxes)):
        rewards = (DETECTION_METHODS[method], FORMAT) if method in DETECTION_METHODS else ()
        return _detection(source, asked or list(dict.fromkeys(box.label for box in boxes if box.label)), boxes, rewards)
    if boxes is not None:
        expression = source.row.get("normal_caption") or _after(_REGION, problem) or asked_text(problem)
        return _grounding(source, expression, boxes)
    return _qa(source, problem, gold, method)


def _turns(row: Mapping[str, Any]) -> tuple[str, Any]:
    turns = row.get("conversations")
    if turns is None:
        problem, gold = row.get("problem"), row.get("solution")
    elif isinstance(turns, list) and len(turns) >= 2 and all(isinstance(turn, dict) for turn in turns[:2]):
        problem, gold = turns[0].get("value"), turns[1].get("value")
    else:
        raise BadRow(f"'conversations' must hold a question and an answer, got {str(turns)[:120]}")
    if not isinstance(problem, str) or gold is None or isinstance(gold, bool | dict):
        raise BadRow(f"a row needs a question (text) and an answer, got {problem!r} and {gold!r}")
    return problem, gold


def _qa(source: Source, problem: str, gold: Any, method: str) -> Sample:
    """A question with a short answer, paid as VLM-R1 pays it: by the row's method, else by the kind of its answer."""
    answer, reward = gold, TEXT_METHODS.get(method) or _default_reward(gold)
    if reward in ("mcq", "yes_no"):
        if not isinstance(gold, str):
            raise BadRow(f"{reward} needs a text as answer, got {gold!r}")
        answer, why = choice_letter(gold, None) if reward == "mcq" else yes_or_no(gold)
        if answer is None:
            raise BadRow(f"{reward}: {why}: {gold!r}")
    shaping = (LENGTH_METHODS[method],) if method in LENGTH_METHODS else ()
    meta = {**source.meta, "rewards": [reward, *shaping, FORMAT]}
    return Sample(source.sample_id, "qa", asked_text(problem), answer, source.images, meta=meta)


def _default_reward(gold: Any) -> str:
    if isinstance(gold, int | float) or (isinstance(gold, str) and number(gold) is not None):
        return "math_equal"
    if isinstance(gold, str) and re.fullmatch(r"\(?[A-Z]\)?\.?", gold):
        return "mcq"
    return "fuzzy_match"


def _says_none(gold: str) -> bool:
    read = parse_boxes(gold)
    return isinstance(read, ParsedBoxes) and read.explicit_none


def visual_rft(source: Source) -> Sample:
    """A row of Visual-RFT (`image`, `problem`, `solution` in answer tags), or of its LISA file (`conversations`)."""
    problem, gold = _turns(source.row)
    if not isinstance(gold, str):
        raise BadRow(f"the solution must be a text, got {gold!r}")
    span = answer_span(gold)
    if not span.text:
        raise BadRow(f"no answer in the solution {gold[:120]!r}: {span.why or 'it is empty'}")
    category = _after(_CATEGORY, problem)
    boxes = _boxes_in(span.text, none_is_empty=category is not None)
    if category is not None:
        if boxes is None:
            raise BadRow(f"no boxes in the solution {gold[:120]!r}")
        return _detection(source, [category], boxes, ())
    if boxes is not None and "Position" in span.text:
        raise BadRow(f"the problem names no category ('belonging to the category ...'): {problem[:120]!r}")
    if boxes is not None:
        return _grounding(source, asked_text(_after(_INSTRUCTION, problem) or problem), boxes)
    return Sample(source.sample_id, "classification", asked_text(problem), span.text, source.images, meta=source.meta)


def cls_rl(source: Source) -> Sample:
    """A row of CLS-RL (`image`, `problem` with or without a list of names, `solution` in answer tags, or `label`)."""
    problem, gold = source.row.get("problem"), source.row.get("solution", source.row.get("label"))
    if not isinstance(problem, str) or not isinstance(gold, str):
        raise BadRow(f"'problem' and 'solution' must be texts, got {problem!r} and {gold!r}")
    label = answer_span(gold).text
    if not label:
        raise BadRow(f"no label in the solution {gold!r}")
    found = _CHOOSE.search(problem)
    choices = None
    if found is not None:
        choices = _names_in(found[1], label)
        ends = [end.end() for end in _SENTENCE_END.finditer(problem, 0, found.start())]
        problem = problem[: ends[-1] if ends else 0]
    return Sample(source.sample_id, "classification", asked_text(problem), label, source.images, None, choices, source.meta)


def vision_r1(source: Source) -> Sample:
    """A row of Vision-R1 (`image`, `problem`, `solution` as JSON text, `width`, `height`, `target_id_maps`)."""
    row = source.row
    problem, written = row.get("problem"), _json_cell(row.get("solution"), "solution")
    if not isinstance(problem, str) or not isinstance(written, list):
        raise BadRow(f"a row needs a problem and a solution that is a list, got {problem!r} and {row.get('solution')!r}")
    ids = _json_cell(row["target_id_maps"], "target_id_maps") if row.get("target_id_maps") else {}
    if not isinstance(ids, dict):
        raise BadRow(f"target_id_maps must be an object, got {ids!r}")
    asked = [name for name in ids if canon(name) != "background"]
    if not asked:
        found = _CATEGORY_SET.search(problem)
        asked = [name.strip() for name in found[1].split(",") if name.strip()] if found else []
    # the boxes are pixels of an image of the stated size, which the stored one may be a resized form of
    x = y = 1.0
    if row.get("width") is not None and row.get("height") is not None and source.sizes_wh:
        stated = (row["width"], row["height"])
        if not all(isinstance(side, int | float) and side > 0 for side in stated):
            raise BadRow(f"width and height must be above 0, got {stated}")
        x, y = source.sizes_wh[0][0] / stated[0], source.sizes_wh[0][1] / stated[1]
    boxes = []
    for item in written:
        if not isinstance(item, list) or len(item) != 2 or not isinstance(item[0], str) or not isinstance(item[1], list):
            raise BadRow(f"an item of the solution is [class, [[x1, y1, x2, y2]]], got {str(item)[:120]}")
        for corners in item[1]:
            problem_of_box = box_problem(corners, None)
            if problem_of_box is not None:
                raise BadRow(problem_of_box)
            boxes.append(Box(corners[0] * x, corners[1] * y, corners[2] * x, corners[3] * y, item[0].strip()))
    return _detection(source, asked or list(dict.fromkeys(box.label or "" for box in boxes)), boxes, ())


def _json_cell(value: Any, name: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadRow(f"{name} is not JSON: {value[:120]!r}") from error


def _boxes_in(gold: Any, none_is_empty: bool) -> list[Box] | None:
    """The boxes an answer holds; None where it is no box answer. `none_is_empty`: "None" is an empty list of boxes."""
    if isinstance(gold, list):
        if not (len(gold) == 4 and all(isinstance(value, int | float) for value in gold)) and not any(
            isinstance(item, dict | list) for item in gold
        ):
            return None
        gold = json.dumps(gold)
    if not isinstance(gold, str):
        return None
    read = parse_boxes(gold)
    if not isinstance(read, ParsedBoxes) or (read.explicit_none and not none_is_empty):
        return None
    if not read.all_valid or read.truncated:
        raise BadRow(f"{read.n_pred - len(read.items)} boxes of {read.n_pred} are unusable: {gold[:120]!r}")
    return list(read.items)


def _is_labelled(boxes: Sequence[Box]) -> bool:
    return len(boxes) != 1 or boxes[0].label is not None


def _detection(source: Source, asked: Sequence[str], boxes: Sequence[Box], rewards: tuple[str, ...]) -> Sample:
    if not source.sizes_wh:
        raise BadRow("boxes need an image")
    if not asked:
        raise BadRow("the row does not say which categories it asks for, and its answer is empty")
    spelling: dict[str, str] = {}
    for name in asked:
        spelling.setdefault(canon(name), name)
    asked = list(spelling.values())
    items = []
    for box in boxes:
        label = asked[0] if box.label is None and len(asked) == 1 else spelling.get(canon(box.label or ""))
        if label is None:
            raise BadRow(f"label {box.label!r} is not among the asked categories {', '.join(asked)}"[:300])
        items.append({"bbox_2d": _in_picture(box, source), "label": label})
    meta = {**source.meta, "categories": asked, "image_size": list(source.sizes_wh[0])}
    meta |= {"rewards": list(rewards)} if rewards else {}
    return Sample(source.sample_id, "detection", ", ".join(asked), items, source.images, meta=meta)


def _grounding(source: Source, expression: str, boxes: Sequence[Box]) -> Sample:
    if len(boxes) != 1:
        raise BadRow(f"{len(boxes)} boxes without labels; grounding has one, detection needs labels")
    if not source.sizes_wh:
        raise BadRow("boxes need an image")
    meta = {**source.meta, "image_size": list(source.sizes_wh[0])}
    answer = {"bbox_2d": _in_picture(boxes[0], source)}
    return Sample(source.sample_id, "grounding", expression.strip().removesuffix("."), answer, source.images, meta=meta)


def _in_picture(box: Box, source: Source) -> list[float]:
    """The box in original pixels, cut at the picture's edge; more than 1 px outside is told to `source.clipped`."""
    width, height = source.sizes_wh[0]
    corners = to_original_px(box.xyxy, source.coords, (width, height))
    problem = box_problem(corners, (width, height))
    x1, y1, x2, y2 = max(corners[0], 0), max(corners[1], 0), min(corners[2], width), min(corners[3], height)
    if min(x2 - x1, y2 - y1) <= 0:
        raise BadRow(problem or f"box {list(corners)} has no area inside the {width}x{height} image")
    if problem is not None:
        source.clipped(problem)
    return [tidy(value) for value in (x1, y1, x2, y2)]


def _after(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.search(text)
    return found[1].strip() if found else None


def asked_text(problem: str) -> str:
    """What a problem asks: without image placeholders, and without everything from the first sentence on format on.

    Raises BadRow where nothing is left.
    """
    text = _PLACEHOLDER.sub("", problem).strip()
    talk = _FORMAT_TALK.search(text)
    if talk is not None:
        ends = [end.end() for end in _SENTENCE_END.finditer(text, 0, talk.start())]
        text = text[: ends[-1] if ends else 0].strip()
    if not text:
        raise BadRow(f"the problem asks nothing besides a format: {problem[:120]!r}")
    return text


def _listed_categories(problem: str) -> list[str] | None:
    """The Python list of names in VLM-R1's detection question; None where there is none."""
    found = _DETECT_LIST.search(problem)
    if found is None:
        return None
    try:
        names = ast.literal_eval(found[1])
    except (ValueError, SyntaxError) as error:
        raise BadRow(f"the list of objects to detect cannot be read: {found[1][:120]}") from error
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise BadRow(f"the list of objects to detect holds something else than names: {found[1][:120]}")
    return list(dict.fromkeys(name.strip() for name in names))


def _names_in(text: str, label: str) -> tuple[str, ...]:
    """Names separated by commas; a comma inside the right name does not separate."""
    hidden = text.replace(label, "\0") if "," in label else text
    names = [name.strip().replace("\0", label) for name in hidden.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))
