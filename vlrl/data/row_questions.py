"""One question of another project's row → one sample: which words are the question, which are the answer, what it is graded by.

The task follows from the answer: boxes in an image are grounding or detection, a label is classification, anything else is qa.
Not here: where a project's rows hold these parts (`vlrl.data.row_families`), words (`vlrl.data.row_wording`), options
(`vlrl.data.row_options`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vlrl.answers.span import END_THINK, THINK, answer_span, canon
from vlrl.data import published_rows
from vlrl.data.images import ImageError
from vlrl.data.row_options import (
    chosen_letter,
    is_bare_letter,
    letter_of,
    listed_options,
    named_options,
    without_letters,
    without_question_label,
)
from vlrl.data.row_source import BadRow, LeftOut, SourceRow, UnitError
from vlrl.data.row_wording import (
    asks_for_a_place,
    asks_for_numbers,
    named_thing,
    numbers_in_words,
    plain_question,
    wanted_all,
    without_format,
    without_placeholders,
)
from vlrl.schema import Box, Sample

LONG_ANSWER_CHARS = 100
"""Longer answers are rarely repeated word for word, so an exact match rewards next to nothing."""
ABOUT_A_BOX = "questions about a box in their own words (each model writes boxes in units of its own)"
A_POINT = "questions whose answer is a point"
NO_FORM = "questions are read without sentences about the form of their answer, which each task writes itself"
FROM_TEXT = "questions list their options in their text; these are choices now"
STAYS_TEXT = (
    "answers of numbers stay text, as their questions ask for no place (rows.py --task grounding reads four numbers as a box)"
)
BARE_BOX = (
    "answers of four numbers are read as boxes, as all answers of the set are such (rows.py --task qa reads them as text)"
)
ALL_OF_ONE = "rows with one box are detection, as their words ask for all (rows.py --task grounding: for one)"
_NUMBER = r"-?\d+(?:\.\d+)?"
_FOUR = re.compile(rf"[\[(]\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*[\])]")
_FOUR_BARE = re.compile(rf"(?<![\d.]){_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}(?![\d.])")
_ONLY_NUMBERS = re.compile(r"[\s\d.,;\[\]()-]+")
_POINT = re.compile(rf"[\[(]?\s*{_NUMBER}\s*,\s*{_NUMBER}\s*[\])]?")
_ASKS_FOR_A_POINT = re.compile(r"\b(?:point (?:to|at|out)|click|tap)\b|\bpoint coordinates?\b", re.IGNORECASE)
_BOX_TOKENS = re.compile(r"<\|box_start\|>|<box>|<\|begin_of_box\|>|<loc_?\d")
_ASKED_FOR = re.compile(r"(?:region|object) this sentence describes:\s*(.+)", re.DOTALL | re.IGNORECASE)
_NORMALIZED = re.compile(
    r"(?<!not )\bnormali[sz]ed\b[^.?!\n]{0,30}\b(?:coordinate|bounding|box|bbox|value|position|corner|0|\[0)"
    r"|(?:coordinate|box|bbox|value|position|corner)[^.?!\n]{0,40}(?<!not )\bnormali[sz]ed\b"
    r"|(?<![\d.,])\b0\s*(?:[-–—~,]|\.\.+|to|and|until)\s*(?:1,?000|999)\b(?!\s*(?:px|pixel)|[.,]?\d)"
    r"|thousandths|归一化",
    re.IGNORECASE,
)
"""What texts say of boxes that are not in pixels."""
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_BOX_KEYS = frozenset({"bbox_2d", "bbox", "box", "box_2d"})
_BOXED = "\\boxed{"


@dataclass(frozen=True)
class Asked:
    """One question of a row. `images`: cells as the row has them. `labels`: it is a label, of these names where they are known.
    `boxes` with `coords`: its answer where the row holds boxes apart from text; `categories`: what was asked for. `method`: how
    its project rewards it. `noted`: how its words were understood, for people. `turn`: which question of a conversation it is,
    from 1; 0: the row has one."""

    question: str
    answer: Any = None
    images: tuple[Any, ...] = ()
    choices: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    coords: str | None = None
    categories: tuple[str, ...] = ()
    image_index: int = 0
    method: str | None = None
    turn: int = 0
    noted: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def sample_of(asked: Asked, source: SourceRow) -> Sample:
    """The sample of a question; `source` holds its images. Raises BadRow."""
    source = replace(source, image_index=asked.image_index, coords=asked.coords or source.coords)
    if asked.noted:
        source.noted(asked.noted)
    try:
        sample = _sample_of(asked, source)
    except ImageError as error:
        raise BadRow(str(error)) from error
    if sample.task in ("grounding", "detection") and source.coords == "px" and not source.units.stated:
        _check_words_about_units(asked, source)
    more = {"image_index": asked.image_index} if asked.image_index else {}
    return replace(sample, meta={**sample.meta, **more, **asked.meta}) if more or asked.meta else sample


def _check_words_about_units(asked: Asked, source: SourceRow) -> None:
    """Raises UnitError where a text says that boxes are no pixels, and nobody says that they are."""
    for text in (asked.question, source.row.get("system"), *_system_turns(source.row)):
        if isinstance(text, str) and (found := _NORMALIZED.search(text)) is not None:
            raise UnitError(
                f"{source.sample_id}: its text speaks of {found[0]!r:.80}, so its boxes seem to be thousandths, not"
                " pixels (--coords px if they are pixels, norm1 if they are shares)",
                "--coords norm1000",
            )


def _system_turns(row: Mapping[str, Any]) -> list[Any]:
    turns = [row[key][0] for key in ("messages", "conversations", "prompt") if isinstance(row.get(key), list) and row[key]]
    return [
        one.get("content", one.get("value"))
        for one in turns
        if isinstance(one, Mapping) and one.get("role", one.get("from")) == "system"
    ]


def _sample_of(asked: Asked, source: SourceRow) -> Sample:
    if asked.boxes is not None:
        if not asked.categories:
            return published_rows.grounding_of(source, _expression(asked.question, source), asked.boxes)
        return published_rows.detection_of(source, asked.categories, asked.boxes, ())
    if asked.labels is not None:
        if not isinstance(asked.answer, str) or not asked.answer.strip():
            raise BadRow(f"a label is a text, got {asked.answer!r:.80}")
        choices = asked.labels or None
        return Sample(
            source.sample_id, "classification", asked.question, asked.answer, source.images, choices=choices, meta=source.meta
        )
    if asked.method is not None or source.reward_method is not None:
        row = {**source.row, "conversations": None, "problem": asked.question, "solution": asked.answer}
        return published_rows.vlm_r1(replace(source, row=row | ({"accu_reward_method": asked.method} if asked.method else {})))
    return _by_answer(asked, source)


def _by_answer(asked: Asked, source: SourceRow) -> Sample:
    """A question with the text that is its answer."""
    answer, thinking = read_answer(asked.answer)
    if asked.choices is not None:
        asked = replace(asked, choices=tuple(numbers_in_words(one, len(source.images)) for one in asked.choices))
    question, had_form = plain_question(asked.question, len(source.images), has_choices=asked.choices is not None)
    if asked.choices is not None:
        listed = listed_options(question)
        choices = without_letters(asked.choices)
        if listed is not None and [canon(one) for one in listed[1]] == [canon(one) for one in choices]:
            question = listed[0]
        if had_form:
            source.noted(NO_FORM)
        return _choice(source, without_question_label(question), choices, answer, thinking)
    if isinstance(answer, str) and source.images:
        boxes = _boxes(asked.question, answer, source)
        if boxes is not None:
            return _with_boxes(asked, boxes, source)
    if source.images and _FOUR.search(asked.question) and asks_for_a_place(asked.question):
        raise LeftOut(ABOUT_A_BOX)
    if had_form:
        source.noted(NO_FORM)
    if isinstance(answer, str):
        if not answer.strip():
            raise BadRow("its answer is empty")
        if source.images and _ASKS_FOR_A_POINT.search(asked.question) and _POINT.fullmatch(answer):
            raise LeftOut(A_POINT)
        listed = listed_options(question) or named_options(question, answer)
        if listed is not None and is_bare_letter(answer) and letter_of(answer, listed[1]) is None:
            raise BadRow(f"its answer is {answer!r}, but its question lists {len(listed[1])} options, from A on")
        if listed is not None and (letter := chosen_letter(answer, listed[1])) is not None:
            source.noted(FROM_TEXT)
            long = not thinking and len(answer) > LONG_ANSWER_CHARS
            return _choice(source, *listed, letter, answer if long else thinking)
    return _qa(source, question, answer, None, thinking)


def _with_boxes(asked: Asked, boxes: list[Box], source: SourceRow) -> Sample:
    """Boxes that an answer is: of one thing, or of all that have some names."""
    requested = published_rows.listed_categories(asked.question)
    labels = list(dict.fromkeys(box.label for box in boxes if box.label))
    if requested is None and not labels and source.task != "grounding":
        wanted = wanted_all(without_placeholders(asked.question))
        if wanted == "" and source.task != "detection":
            raise BadRow("it asks for all objects, but its boxes have no names, so nothing says what is in them")
        if wanted or source.task == "detection":
            if len(boxes) == 1:
                source.noted(ALL_OF_ONE)
            name = wanted or _expression(asked.question, source)
            return published_rows.detection_of(source, [name], [replace(box, label=name) for box in boxes], ())
        if len(boxes) > 1:
            name = named_thing(without_placeholders(asked.question))
            if not name:
                raise BadRow(f"its answer is {len(boxes)} boxes without names, and its question does not say of what")
            return published_rows.detection_of(source, [name], [replace(box, label=name) for box in boxes], ())
    if requested is not None or labels or len(boxes) != 1:
        return published_rows.detection_of(source, requested or labels, boxes, ())
    return published_rows.grounding_of(source, _expression(asked.question, source), boxes)


def _qa(source: SourceRow, question: str, answer: Any, choices: tuple[str, ...] | None, thinking: str) -> Sample:
    meta = {**source.meta, "thinking": thinking} if thinking else source.meta
    return Sample(source.sample_id, "qa", question, answer, source.images, choices=choices, meta=meta)


def _choice(source: SourceRow, question: str, choices: tuple[str, ...], answer: Any, thinking: str) -> Sample:
    """A multiple-choice question: the answer is a letter, the text of a choice, or its number from 0."""
    letter = letter_of(answer, choices)
    if letter is None and isinstance(answer, str):
        letter = chosen_letter(answer, choices)
    if letter is None:
        raise BadRow(f"the answer {answer!r:.80} is none of the {len(choices)} choices")
    return _qa(source, question, letter, choices, thinking)


# ---- words


def read_answer(written: Any) -> tuple[Any, str]:
    """The answer in a written solution, and the thought before it ("" for none): inside answer tags, behind `####`, in the last
    `\\boxed{}`, or the whole text. Numbers and lists of texts stay as they are. Raises BadRow."""
    if isinstance(written, bool):
        return ("yes" if written else "no"), ""
    if isinstance(written, list | tuple) and written:
        if len(written) > 1 and all(_is_part(one) for one in written):  # several texts are several right answers
            return json.dumps(written), ""
        parts = [read_answer(one)[0] for one in written]
        if not all(isinstance(one, str | int | float) for one in parts):
            raise BadRow(f"an answer is a text, a number or a list of these, got {str(written)[:80]}")
        return parts[0] if len(parts) == 1 else [str(one) for one in parts], ""
    if isinstance(written, int | float):
        return written, ""
    if isinstance(written, dict) and not _BOX_KEYS.isdisjoint(written):
        return json.dumps(written), ""
    if not isinstance(written, str):
        raise BadRow(f"an answer is a text or a number, got {str(written)[:80]!r}")
    text, thinking = written.strip(), ""
    if END_THINK in text or "<answer>" in text or THINK in text:
        before, closed, after = text.partition(END_THINK)
        thinking = before.replace(THINK, "").strip() if closed else ""
        # Models that only think in tags write the bare answer behind them.
        span = answer_span(after if closed and "<answer>" not in after else text)
        if span.text is None:
            raise BadRow(f"no answer can be read in the solution ({span.why}): {text[:80]!r}")
        text = span.text
    if "\n####" in f"\n{text}":
        before, _, text = text.rpartition("####")
        thinking, text = thinking or before.strip(), text.strip()
    if _BOXED in text and (inside := _boxed(text)):
        thinking = thinking or text[: text.rindex(_BOXED)].strip()
        text = inside
    bold = _BOLD.fullmatch(text)
    return (text if bold is None else bold[1]), thinking


def _is_part(one: Any) -> bool:
    """Whether a member of a list is a part of one answer, as a number or a box is."""
    return isinstance(one, int | float | list | tuple | dict) and not isinstance(one, bool)


def _boxed(text: str) -> str:
    """What the last `\\boxed{}` holds; "" where it is not closed."""
    start = text.rindex(_BOXED) + len(_BOXED)
    depth = 1
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start:i].strip()
    return ""


def _expression(asked: str, source: SourceRow) -> str:
    """What one box is asked for."""
    caption = source.row.get("normal_caption")
    if isinstance(caption, str) and caption.strip():
        return caption
    found = _ASKED_FOR.search(without_placeholders(asked))
    if found is not None:
        return without_format(found[1].strip(), has_boxes=True)
    return plain_question(asked, len(source.images), has_boxes=True)[0]


def _boxes(asked: str, answer: str, source: SourceRow) -> list[Box] | None:
    """The boxes that an answer is, None where it is none. Raises BadRow for one that holds boxes which cannot be read."""
    if source.task == "qa":
        return None
    is_about_boxes = asks_for_a_place(asked)
    has_tokens = _BOX_TOKENS.search(answer) is not None
    has_four = _FOUR_BARE.search(answer) is not None
    requested = published_rows.listed_categories(asked)
    starts = answer.startswith(("[", "{", "```"))
    if is_about_boxes and requested is None and published_rows.says_nothing(answer):
        raise BadRow(f"its answer is {answer[:40]!r}, and no list of names says what was looked for")
    if not (starts or has_tokens or requested is not None or (is_about_boxes and has_four)):
        return None
    is_bare = requested is None and _ONLY_NUMBERS.fullmatch(answer) is not None
    if is_bare and not is_about_boxes and source.task not in ("grounding", "detection"):
        if not has_four or asks_for_numbers(asked) or not source.bare_boxes():
            source.noted(STAYS_TEXT)
            return None
        source.noted(BARE_BOX)
    boxes = published_rows.answer_boxes(answer, none_is_empty=requested is not None)
    if boxes is None and (has_tokens or (is_about_boxes and has_four)):
        raise BadRow(f"the answer holds boxes in a form that cannot be read: {answer[:80]!r}")
    if boxes and has_tokens and source.coords == "px" and not source.units.stated:
        raise UnitError(
            f"boxes in tokens, as {answer[:60]!r}, are thousandths for some models (Qwen2-VL, InternVL) and pixels for"
            " others (Qwen2.5-VL)",
            "--coords norm1000",
        )
    return boxes


def is_one_bare_box(asked: Asked) -> bool | None:
    """Whether a question that names no place has four numbers as its answer that could be a box; None where it has no text as
    its answer. What a set's rows say is the measure for each of them."""
    try:
        answer = read_answer(asked.answer)[0]
    except BadRow:
        return None
    if not isinstance(answer, str):
        return None
    if not _FOUR.fullmatch(answer.strip()) or asks_for_numbers(asked.question):
        return False
    x1, y1, x2, y2 = map(float, re.findall(_NUMBER, answer))
    return x1 < x2 and y1 < y2
