"""True and predicted boxes of one sample, both in original pixels, whatever box format and coordinates the model writes.

Rewards, metrics and drawings all read completions through here, so that what is scored is what is measured and drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import lru_cache

from vlrl.answers.boxes import Frame, ParsedBoxes, parse_boxes
from vlrl.answers.geometry import px_per_unit
from vlrl.answers.span import Span, answer_first_span, answer_span, canon
from vlrl.schema import Box, Sample


def read_span(text: str, sample: Sample) -> Span:
    """Where a completion's answer stands, in the layout that the sample requests (`meta.answer_format`)."""
    return answer_first_span(text) if sample.facts.get("answer_format") == "answer_think" else answer_span(text)


def whole_answer(text: str, sample: Sample, *, tags: bool = False) -> tuple[str | None, str]:
    """A completion's answer as it is written, or None and why: there is none, or it was cut. `tags`: answer tags are
    required."""
    span = read_span(text, sample)
    if span.text is None:
        return None, span.why
    if tags and not span.tagged:
        return None, "no answer tags"
    return (None, "the answer is cut short") if span.truncated else (span.text, "")


def requested_categories(sample: Sample) -> list[str]:
    """The categories whose boxes a sample requests, in order: `meta.categories`, else the labels of its answer."""
    categories = sample.facts.get("categories")
    if categories:
        return list(categories)
    items = [item for item in sample.answer if isinstance(item, dict)]
    return list(dict.fromkeys(item["label"] for item in items if item.get("label")))


def true_boxes(sample: Sample) -> tuple[Box, ...]:
    """The answer of a detection sample, or of a grounding sample as its one box (without a label)."""
    boxes = []
    for item in sample.answer if isinstance(sample.answer, list) else [sample.answer]:
        x1, y1, x2, y2 = item["bbox_2d"]
        boxes.append(Box(x1, y1, x2, y2, item.get("label")))
    return tuple(boxes)


@lru_cache(maxsize=4096)
def _bare(label: str) -> str:
    """A label's canonical form without quotes around it and a full stop behind it."""
    text = canon(label)
    return text.strip("\"'`*. ") or text


def with_canonical_labels(boxes: Iterable[Box]) -> list[Box]:
    """The same boxes with labels that compare by `==`."""
    labelled = []
    for box in boxes:
        label = None if box.label is None else _bare(box.label)
        labelled.append(box if label == box.label else Box(*box.xyxy, label, box.confidence))
    return labelled


def frame_of(sample: Sample, *, as_written: bool = False) -> Frame:
    """How a sample's completions write boxes: the unit, and what was asked for. `as_written`: coordinates stay as they are.

    Raises ValueError only where the sample lacks the sizes that its `meta.coords` needs, never with `as_written`.
    """
    x = y = 1.0
    if not as_written:
        x, y = px_per_unit(sample.coords, sample.facts.get("image_size"), sample.view.input_size)
    if isinstance(sample.answer, dict):
        return Frame(x, y, None, (), sample.question)
    categories = requested_categories(sample) if isinstance(sample.answer, list) else []
    return Frame(x, y, categories[0] if len(categories) == 1 else None, tuple(categories))


def read_boxes(text: str, sample: Sample, *, tags: bool = False, as_written: bool = False) -> tuple[ParsedBoxes | None, str]:
    """A completion's boxes in ORIGINAL pixels, or None and why. With one category requested, a missing label is that one.

    `tags`: answer tags are required. `as_written`: coordinates are not converted. Raises ValueError only where the sample lacks
    the sizes that its `meta.coords` needs.
    """
    span = read_span(text, sample)
    if span.text is None:
        return None, span.why
    if tags and not span.tagged:
        return None, "no answer tags"
    parsed = parse_boxes(span.text, frame_of(sample, as_written=as_written))
    if isinstance(parsed, str):
        return None, parsed
    if span.truncated and parsed.explicit_none:
        return None, "the answer is cut before its first whole item"
    return (dataclasses.replace(parsed, truncated=True) if span.truncated else parsed), ""


def unlabelled(parsed: ParsedBoxes, sample: Sample) -> str:
    """What to say of items without a label where several categories were requested; "" where each has one."""
    n = parsed.n_unlabelled
    if not n or not isinstance(sample.answer, list) or len(requested_categories(sample)) < 2:
        return ""
    return f"{n} items have no label key" if n > 1 else "1 item has no label key"


def read_box(text: str, sample: Sample, *, tags: bool = False) -> tuple[Box | None, str]:
    """The one box of a grounding completion in ORIGINAL pixels, or None and why. Repeating the same box is one box; two
    different ones, an invalid one or an explicit none are no answer."""
    parsed, why = read_boxes(text, sample, tags=tags)
    if parsed is None:
        return None, why
    distinct = {box.xyxy: box for box in parsed.items}
    if parsed.n_pred != len(parsed.items):
        return None, "not a valid box"
    if len(distinct) != 1:
        return None, f"{len(distinct)} different boxes, one was requested"
    return next(iter(distinct.values())), ""
