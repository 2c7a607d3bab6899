"""One row of a published data set → one sample: VLM-R1, Visual-RFT, CLS-RL and Vision-R1 as their own trainers read them.

The task of a row follows from its answer. Placeholders and sentences about the format leave its question, as the prompt of the
task writes its own. Boxes become original pixels. Every function raises `BadRow` for a row that cannot be used.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.answers.boxes import ParsedBoxes, parse_boxes
from vlrl.answers.choices import choice_letter
from vlrl.answers.geometry import box_problem, tidy, to_original_px
from vlrl.answers.span import ANSWER, END_ANSWER, END_THINK, THINK, answer_span, canon
from vlrl.answers.text import number
from vlrl.answers.yes_no import yes_or_no
from vlrl.data.row_source import BadRow, SourceRow
from vlrl.schema import Box, Sample

DETECTION_METHODS = {
    "map": "vlm_r1_map",
    "od_ap": "vlm_r1_map",
    "od_ap50": "vlm_r1_map50",
    "odLength": "vlm_r1_odlength",
    "weighted_sum": "vlm_r1_weighted",
}
"""VLM-R1's methods for a list of boxes → our reward of the same definition."""
TEXT_METHODS = {
    "mcq": "mcq",
    "yes_no": "yes_no",
    "llm": "llm_judge",
    "math": "math_equal",
    "all_match": "exact_match",
}
LENGTH_METHODS = {"length": "cosine_length", "repetition": "repetition"}
"""Methods that shape an accuracy → our reward; the row's accuracy reward is applied as well."""
REWARD_METHODS = ("default", *TEXT_METHODS, *DETECTION_METHODS, *LENGTH_METHODS)
FORMAT = "think_answer_format"

_PLACEHOLDER = re.compile(r"<image>|<video>|<\|vision_start\|>.*?<\|vision_end\|>|<img>.*?</img>", re.DOTALL)
_FORMAT_TALK = re.compile(r"</?think>|</?answer>|thinking process|output answer format|Please strictly follow", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.?!:](?=\s)|\n")
_REGION = re.compile(r"(?:region|object) this sentence describes:\s*(.+)", re.DOTALL | re.IGNORECASE)
_INSTRUCTION = re.compile(r"corresponding to the instruction:\s*(.+)", re.DOTALL | re.IGNORECASE)
_DETECT_LIST = re.compile(r"detect the following objects:\s*(\[.*?\])(?=\s*(?:[.\n]|$))", re.DOTALL | re.IGNORECASE)
_ASKS_FOR_BOXES = re.compile(r"bounding ?box|\bbbox", re.IGNORECASE)
_FOUR = re.compile(r"\d[\d.]*(?:[^\d.]{1,4}\d[\d.]*){3}")
_CATEGORY = re.compile(r"belonging to the category '(.+?)' in the image")
_CATEGORY_SET = re.compile(r"category set includes\s+(.+?)\.?\s*$", re.DOTALL | re.IGNORECASE)
_CHOOSE = re.compile(r"choose one from list\s*\[(.*)\]", re.DOTALL | re.IGNORECASE)


def vlm_r1(source: SourceRow) -> Sample:
    """A row of VLM-R1's JSONL (`conversations` of two turns) or of its evaluation files (`problem`, `solution`)."""
    problem, reference = _turns(source.row)
    method = source.row.get("accu_reward_method") or source.reward_method or "default"
    if method not in REWARD_METHODS:
        raise BadRow(f"unknown accu_reward_method {method!r}; known: {', '.join(REWARD_METHODS)}")
    if isinstance(reference, str):
        reference = _answer_in(reference)
    requested = listed_categories(problem)
    boxes = None
    # corner pairs and boxes inside prose are not answers of this data set; they could be points or intervals
    if method not in TEXT_METHODS and (
        not isinstance(reference, str) or reference.startswith(("[", "{", "```")) or says_nothing(reference)
    ):
        boxes = answer_boxes(reference, none_is_empty=method in DETECTION_METHODS or requested is not None)
    if boxes is None and method in DETECTION_METHODS:
        raise BadRow(f"{method} needs a list of boxes, got {str(reference)[:120]!r}")
    if boxes is not None and (method in DETECTION_METHODS or requested is not None or _is_labelled(boxes)):
        rewards = (DETECTION_METHODS[method], FORMAT) if method in DETECTION_METHODS else ()
        return detection_of(source, requested or list(dict.fromkeys(box.label for box in boxes if box.label)), boxes, rewards)
    if boxes is not None:
        expression = source.row.get("normal_caption") or _after(_REGION, problem) or question_text(problem)
        return grounding_of(source, expression, boxes)
    if (
        _ASKS_FOR_BOXES.search(problem)
        and isinstance(reference, str)
        and _FOUR.search(reference)
        and method not in TEXT_METHODS
    ):
        raise BadRow(f"it asks for a box, but the boxes in its answer cannot be read: {reference[:120]!r}")
    return _qa(source, problem, reference, method)


def _answer_in(solution: str) -> str:
    """The answer in a solution with or without tags. Raises BadRow for a thought without one."""
    if THINK not in solution and END_THINK not in solution:
        return solution.replace(ANSWER, "").replace(END_ANSWER, "").strip()
    span = answer_span(solution)
    if span.text is None:
        raise BadRow(f"no answer in the solution {solution[:120]!r}: {span.why}")
    return span.text


def rounds_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A row as rows of one question each: those of its conversation with the reply behind them."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or len(turns) <= 2 or len(turns) % 2:
        return [row]
    return [{**row, "conversations": turns[i : i + 2]} for i in range(0, len(turns), 2)]


def _turns(row: Mapping[str, Any]) -> tuple[str, Any]:
    turns = row.get("conversations")
    if turns is None:
        problem, reference = row.get("problem"), row.get("solution")
    elif isinstance(turns, list) and len(turns) >= 2 and all(isinstance(turn, dict) for turn in turns[:2]):
        problem, reference = turns[0].get("value"), turns[1].get("value")
    else:
        raise BadRow(f"'conversations' must hold a question and an answer, got {str(turns)[:120]}")
    if not isinstance(problem, str) or reference is None or isinstance(reference, bool | dict):
        raise BadRow(f"a row needs a question (text) and an answer, got {problem!r} and {reference!r}")
    return problem, reference


def _qa(source: SourceRow, problem: str, reference: Any, method: str) -> Sample:
    """A question with a short answer, with the reward that VLM-R1 uses: that of the row's method, else that of the answer's
    kind."""
    answer, reward = reference, TEXT_METHODS.get(method) or _default_reward(reference)
    if reward in ("mcq", "yes_no"):
        if not isinstance(reference, str):
            raise BadRow(f"{reward} needs a text as answer, got {reference!r}")
        answer, why = choice_letter(reference, None) if reward == "mcq" else yes_or_no(reference)
        if answer is None:
            raise BadRow(f"{reward}: {why}: {reference!r}")
    shaping = (LENGTH_METHODS[method],) if method in LENGTH_METHODS else ()
    meta = {**source.meta, "rewards": [reward, *shaping, FORMAT]}
    return Sample(source.sample_id, "qa", question_text(problem), answer, source.images, meta=meta)


def _default_reward(reference: Any) -> str:
    if isinstance(reference, int | float) or (isinstance(reference, str) and number(reference) is not None):
        return "math_equal"
    if isinstance(reference, str) and re.fullmatch(r"\(?[A-Z]\)?\.?", reference):
        return "mcq"
    return "fuzzy_match"


def says_nothing(reference: str) -> bool:
    read = parse_boxes(reference)
    return isinstance(read, ParsedBoxes) and read.explicit_none


def visual_rft(source: SourceRow) -> Sample:
    """A row of Visual-RFT (`image`, `problem`, `solution` in answer tags), or of its LISA file (`conversations`)."""
    problem, reference = _turns(source.row)
    if not isinstance(reference, str):
        raise BadRow(f"the solution must be a text, got {reference!r}")
    span = answer_span(reference)
    if not span.text:
        raise BadRow(f"no answer in the solution {reference[:120]!r}: {span.why or 'it is empty'}")
    category = _after(_CATEGORY, problem)
    boxes = answer_boxes(span.text, none_is_empty=category is not None)
    if category is not None:
        if boxes is None:
            raise BadRow(f"no boxes in the solution {reference[:120]!r}")
        return detection_of(source, [category], boxes, ())
    if boxes is not None and "Position" in span.text:
        raise BadRow(f"the problem names no category ('belonging to the category ...'): {problem[:120]!r}")
    if boxes is not None:
        return grounding_of(source, question_text(_after(_INSTRUCTION, problem) or problem), boxes)
    return Sample(source.sample_id, "classification", question_text(problem), span.text, source.images, meta=source.meta)


def cls_rl(source: SourceRow) -> Sample:
    """A row of CLS-RL (`image`, `problem` with or without a list of names, `solution` in answer tags, or `label`)."""
    problem, reference = source.row.get("problem"), source.row.get("solution", source.row.get("label"))
    if not isinstance(problem, str) or not isinstance(reference, str):
        raise BadRow(f"'problem' and 'solution' must be texts, got {problem!r} and {reference!r}")
    label = answer_span(reference).text
    if not label:
        raise BadRow(f"no label in the solution {reference!r}")
    found = _CHOOSE.search(problem)
    choices = None
    if found is not None:
        choices = _names_in(found[1], label)
        ends = [end.end() for end in _SENTENCE_END.finditer(problem, 0, found.start())]
        problem = problem[: ends[-1] if ends else 0]
    return Sample(source.sample_id, "classification", question_text(problem), label, source.images, None, choices, source.meta)


def vision_r1(source: SourceRow) -> Sample:
    """A row of Vision-R1 (`image`, `problem`, `solution` as JSON text, `width`, `height`, `target_id_maps`)."""
    row = source.row
    problem, written = row.get("problem"), _json_cell(row.get("solution"), "solution")
    if not isinstance(problem, str) or not isinstance(written, list):
        raise BadRow(f"a row needs a problem and a solution that is a list, got {problem!r} and {row.get('solution')!r}")
    ids = _json_cell(row["target_id_maps"], "target_id_maps") if row.get("target_id_maps") else {}
    if not isinstance(ids, dict):
        raise BadRow(f"target_id_maps must be an object, got {ids!r}")
    requested = [name for name in ids if canon(name) != "background"]
    if not requested:
        found = _CATEGORY_SET.search(problem)
        requested = [name.strip() for name in found[1].split(",") if name.strip()] if found else []
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
    return detection_of(source, requested or list(dict.fromkeys(box.label or "" for box in boxes)), boxes, ())


def _json_cell(value: Any, name: str) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise BadRow(f"{name} is not JSON: {value[:120]!r}") from error


def answer_boxes(reference: Any, none_is_empty: bool) -> list[Box] | None:
    """The boxes in an answer; None where it is not an answer of boxes. `none_is_empty`: "None" is an empty list of boxes."""
    if isinstance(reference, list):
        if not (len(reference) == 4 and all(isinstance(value, int | float) for value in reference)) and not any(
            isinstance(item, dict | list) for item in reference
        ):
            return None
        reference = json.dumps(reference)
    if not isinstance(reference, str):
        return None
    read = parse_boxes(reference)
    if not isinstance(read, ParsedBoxes) or (read.explicit_none and not none_is_empty):
        return None
    if not read.all_valid or read.truncated:
        raise BadRow(f"{read.n_pred - len(read.items)} boxes of {read.n_pred} are unusable: {reference[:120]!r}")
    return list(read.items)


def _is_labelled(boxes: Sequence[Box]) -> bool:
    return len(boxes) != 1 or boxes[0].label is not None


def detection_of(source: SourceRow, requested: Sequence[str], boxes: Sequence[Box], rewards: tuple[str, ...]) -> Sample:
    if not source.sizes_wh:
        raise BadRow("boxes need an image, but the row has none")
    if not requested:
        raise BadRow("the row does not say which categories it asks for, and its answer has no box with a name")
    spelling: dict[str, str] = {}
    for name in requested:
        spelling.setdefault(canon(name), name)
    requested = list(spelling.values())
    items = []
    for box in boxes:
        label = requested[0] if box.label is None and len(requested) == 1 else spelling.get(canon(box.label or ""))
        if label is None:
            raise BadRow(f"label {box.label!r} is not among the requested categories {', '.join(requested)}"[:300])
        items.append({"bbox_2d": _in_image(box, source), "label": label})
    meta = {**source.meta, "categories": requested, "image_size": list(source.sizes_wh[source.image_index])}
    meta |= {"rewards": list(rewards)} if rewards else {}
    return Sample(source.sample_id, "detection", ", ".join(requested), items, source.images, meta=meta)


def grounding_of(source: SourceRow, expression: str, boxes: Sequence[Box]) -> Sample:
    if len(boxes) != 1:
        raise BadRow(f"{len(boxes)} boxes without labels; grounding has one, detection needs labels")
    if not source.sizes_wh:
        raise BadRow("boxes need an image, but the row has none")
    meta = {**source.meta, "image_size": list(source.sizes_wh[source.image_index])}
    answer = {"bbox_2d": _in_image(boxes[0], source)}
    return Sample(source.sample_id, "grounding", expression.strip().removesuffix("."), answer, source.images, meta=meta)


def _in_image(box: Box, source: SourceRow) -> list[float]:
    """The box in original pixels, cut at the edge of the image; `source.clipped` is called where it was more than 1 px
    outside."""
    width, height = source.sizes_wh[source.image_index]
    if source.coords == "px":
        source.units.see(box.xyxy, (width, height))
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


def question_text(problem: str) -> str:
    """The question in a problem: without image placeholders, and cut before the first sentence about the format.

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


def listed_categories(problem: str) -> list[str] | None:
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
