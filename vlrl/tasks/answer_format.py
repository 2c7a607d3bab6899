"""What all prompts and right answers share: the layout asked for, and how boxes are written in it.

`meta` says how a completion is laid out (`answer_format`) and boxes are written (`box_format`), `view.coords` what they count.
Training, the supervised stage and evaluation all build their texts here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vlrl.answers.geometry import from_original_px
from vlrl.answers.read import read_boxes, true_boxes
from vlrl.schema import Boxes, Prediction, Sample

LEADS = {
    "think_answer": "First think, then answer with",
    "answer_think": "First answer, then explain, with",
    "answer": "Answer with",
    "none": "Answer with nothing but",
}
UNITS = {
    "norm1000": " Coordinates are integers from zero to one thousand.",
    "norm1": " Coordinates are fractions of the width and the height.",
}
NO_OBJECT_TEXTS = {"position_confidence": "No Objects"}


def lay_out(thought: str, answer: str, sample: Sample) -> str:
    """A completion in the layout the sample asks for."""
    layout = sample.facts.get("answer_format", "think_answer")
    if layout == "none":
        return answer
    if layout == "answer":
        return f"<answer>{answer}</answer>"
    if layout == "answer_think":
        return f"<answer>{answer}</answer><think>{thought}</think>"
    return f"<think>{thought}</think><answer>{answer}</answer>"


def instruction(sample: Sample, what: str, example: str) -> str:
    """The end of a prompt: the layout in words and as a pattern. `what` completes "answer with ..."."""
    lead = LEADS[sample.facts.get("answer_format", "think_answer")]
    return f"{lead} {what}.\n{lay_out('reasoning', example, sample)}"


def box_instruction(sample: Sample, what: str, several: bool) -> str:
    """As `instruction`, for answers made of boxes."""
    kind = sample.facts.get("box_format", "json")
    corners = {"bbox_2d": ["x1", "y1", "x2", "y2"], "label": "name"}
    example = _write([corners if several else {"bbox_2d": corners["bbox_2d"]}], kind, several, "score")
    example = example.replace('"x1","y1","x2","y2"', "x1,y1,x2,y2")
    unit = UNITS.get(sample.coords, "")
    if kind == "position_confidence":
        unit += " Give each box a confidence from zero to one."
    lead = LEADS[sample.facts.get("answer_format", "think_answer")]
    return f"{lead} {what}.{unit}\n{lay_out('reasoning', example, sample)}"


def no_object(sample: Sample) -> str:
    """How this sample's form says that nothing is there."""
    return NO_OBJECT_TEXTS.get(sample.facts.get("box_format", "json"), "None")


def write_boxes(items: Sequence[dict[str, Any]], sample: Sample, several: bool = True) -> str:
    """Boxes in original pixels -> the answer's text, in the sample's coordinates and form. `several=False`: one bare object."""
    if not items:
        return no_object(sample)
    meta = sample.meta
    convention = (sample.coords, meta.get("image_size"), sample.view.input_size)
    written = [{**item, "bbox_2d": list(from_original_px(item["bbox_2d"], *convention))} for item in items]
    return _write(written, meta.get("box_format", "json"), several, None)


def drawn_boxes(sample: Sample, prediction: Prediction) -> Boxes:
    """True and predicted boxes for the page and for `samples.png`."""
    parsed, _ = read_boxes(prediction.completion, sample)
    return true_boxes(sample), None if parsed is None else parsed.items


def _write(items: Sequence[dict[str, Any]], kind: str, several: bool, confidence: str | None) -> str:
    if kind == "corners":
        return ",".join("({},{}),({},{})".format(*item["bbox_2d"]) for item in items)
    if kind == "position_confidence":
        rows = []
        for item in items:
            corners = ", ".join(str(v) for v in item["bbox_2d"])
            rows.append(
                f"{{'Position': [{corners}], 'Confidence': {confidence or format(item.get('confidence', 1.0), '.2f')}}}"
            )
        return f"[{', '.join(rows)}]"
    plain = [{key: item[key] for key in ("bbox_2d", "label") if item.get(key) is not None} for item in items]
    text = json.dumps(plain if several else plain[0], separators=(",", ":"), ensure_ascii=False)
    return f"```json\n{text}\n```" if kind == "fenced_json" else text
