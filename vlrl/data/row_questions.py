"""One question of another project's row → one sample: which words are the question, which are the answer, what it is graded by.

The task follows from the answer: boxes in an image are grounding or detection, a label is classification, anything else is qa.
Not here: where a project's rows hold these parts (`vlrl.data.row_families`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlrl.answers.span import END_THINK, THINK, answer_span, canon
from vlrl.answers.text import LETTERS
from vlrl.data import published_rows
from vlrl.data.images import ImageError
from vlrl.data.row_source import BadRow, LeftOut, SourceRow, UnitError
from vlrl.schema import Box, Sample

IMAGE = "<image>"
LONG_ANSWER_CHARS = 100
"""Longer answers are rarely repeated word for word, so an exact match rewards next to nothing."""
ABOUT_A_BOX = "questions about a box in their own words (each model writes boxes in units of its own)"
_PLACEHOLDER = re.compile(r"<\|vision_start\|>.*?<\|vision_end\|>|<img>.*?</img>|<image>|<ImageHere>|<\|image\|>", re.DOTALL)
_NUMBERED = re.compile(r"<(?:image|img)[ _]?(\d{1,3})>")
"""A placeholder that says which image it stands for, as MMMU and MathVision have it."""
_OTHER_MEDIA = re.compile(r"<video>|<audio>")
_FORMAT = re.compile(
    r"</?think>|</?answer>|thinking process|output answer format|Please strictly follow|You FIRST think about"
    r"|MUST BE (?:put|enclosed)",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r".+?(?:[.?!:](?=\s|$)|\n|$)\s*", re.DOTALL)
_FOUR = re.compile(r"[\[(]\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3}\s*[\])]")
_BOX_WORDS = re.compile(
    r"\bb(?:ounding[ -])?box|coordinate|\bregion\b|\blocat|\bdetect|\bground|\bwhere\b|坐标|边界框|检测框", re.IGNORECASE
)
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
_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[).:、][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_LETTER = re.compile(r"\(?([A-Z])[).:]?")
_BOXED = "\\boxed{"


@dataclass(frozen=True)
class Asked:
    """One question of a row. `images`: cells as the row has them. `labels`: it is a label, of these names where they are known.
    `boxes` with `coords`: its answer where the row holds boxes apart from text; `categories`: what was asked for. `method`: how
    its project rewards it. `turn`: which question of a conversation it is, from 1; 0: the row has one."""

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
    meta: Mapping[str, Any] = field(default_factory=dict)


def sample_of(asked: Asked, source: SourceRow) -> Sample:
    """The sample of a question; `source` holds its images. Raises BadRow."""
    source = replace(source, image_index=asked.image_index, coords=asked.coords or source.coords)
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
        asked = replace(asked, choices=tuple(_numbers_in_words(one, len(source.images)) for one in asked.choices))
    question = plain_question(asked.question, len(source.images))
    if asked.choices is not None:
        return _choice(source, question, asked.choices, answer, thinking)
    if isinstance(answer, str) and source.images:
        boxes = _boxes(asked.question, answer, source)
        if boxes is not None:
            requested = published_rows.listed_categories(asked.question)
            labels = list(dict.fromkeys(box.label for box in boxes if box.label))
            if requested is not None or labels or len(boxes) != 1:
                return published_rows.detection_of(source, requested or labels, boxes, ())
            return published_rows.grounding_of(source, _expression(asked.question, source), boxes)
    if source.images and _FOUR.search(asked.question) and _BOX_WORDS.search(asked.question):
        raise LeftOut(ABOUT_A_BOX)
    if isinstance(answer, str):
        if found := _listed_choices(question, answer):
            return _choice(source, *found, answer, thinking)
        if not answer.strip():
            raise BadRow("its answer is empty")
    return _qa(source, question, answer, None, thinking)


def _qa(source: SourceRow, question: str, answer: Any, choices: tuple[str, ...] | None, thinking: str) -> Sample:
    meta = {**source.meta, "thinking": thinking} if thinking else source.meta
    return Sample(source.sample_id, "qa", question, answer, source.images, choices=choices, meta=meta)


def _choice(source: SourceRow, question: str, choices: tuple[str, ...], answer: Any, thinking: str) -> Sample:
    """A multiple-choice question: the answer is a letter, the text of a choice, or its number from 0."""
    letter = letter_of(answer, choices)
    if letter is None:
        raise BadRow(f"the answer {answer!r:.80} is none of the {len(choices)} choices")
    return _qa(source, question, letter, choices, thinking)


def letter_of(answer: Any, choices: Sequence[str]) -> str | None:
    """The letter of the right choice, or None where the answer names none."""
    valid = LETTERS[: len(choices)]
    if isinstance(answer, int) and not isinstance(answer, bool):
        return valid[answer] if 0 <= answer < len(valid) else None
    if not isinstance(answer, str):
        return None
    same = [letter for letter, choice in zip(valid, choices, strict=False) if canon(choice) == canon(answer)]
    if len(same) == 1:
        return same[0]
    found = _LETTER.fullmatch(answer.strip()) or re.match(r"\(?([A-Z])[).:]\s", answer.strip())
    return found[1] if found is not None and found[1] in valid else None


def _listed_choices(question: str, answer: str) -> tuple[str, tuple[str, ...]] | None:
    """A question without the options that end it, one a line from A on, and these; None where it lists none, or the answer is
    none of them."""
    options = list(_OPTION.finditer(question))
    if len(options) < 2 or [one[1] for one in options] != list(LETTERS[: len(options)]):
        return None
    between = question[options[0].start() :]
    if len(between.strip().splitlines()) != len(options):
        return None
    choices, asked = tuple(one[2] for one in options), question[: options[0].start()].strip()
    asked = re.sub(r"\n?\s*(?:choices|options)\s*:\s*$", "", asked, flags=re.IGNORECASE).strip()
    return (asked, choices) if asked and letter_of(answer, choices) is not None else None


# ---- words


def read_answer(written: Any) -> tuple[Any, str]:
    """The answer in a written solution, and the thought before it ("" for none): inside answer tags, behind `####`, in the last
    `\\boxed{}`, or the whole text. Numbers and lists of texts stay as they are. Raises BadRow."""
    if isinstance(written, bool):
        return ("yes" if written else "no"), ""
    if isinstance(written, list | tuple) and written:
        parts = [read_answer(one)[0] for one in written]
        if not all(isinstance(one, str | int | float) for one in parts):
            raise BadRow(f"an answer is a text, a number or a list of these, got {str(written)[:80]}")
        return parts[0] if len(parts) == 1 else [str(one) for one in parts], ""
    if isinstance(written, int | float):
        return written, ""
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
    return text, thinking


def _boxed(text: str) -> str:
    """What the last `\\boxed{}` holds; "" where it is not closed."""
    start = text.rindex(_BOXED) + len(_BOXED)
    depth = 1
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start:i].strip()
    return ""


def plain_question(asked: str, n_images: int) -> str:
    """The question without placeholders of images and without sentences about the format of the answer. A placeholder between
    words becomes words, "image 2" or "the image". Raises BadRow where nothing is left, or placeholders and images do not
    match."""
    if _OTHER_MEDIA.search(asked):
        raise BadRow("it asks about a video or a sound, which rows of this form cannot bring here")
    n = len(_PLACEHOLDER.findall(asked))
    if n and n != n_images:
        raise BadRow(f"its question has {n} image placeholders, but the row has {n_images} images")
    text = _without_numbers_apart(_in_words(asked, n_images), n_images)
    text = _without_format(_numbers_in_words(text, n_images).strip())
    if not text:
        raise BadRow(f"it asks nothing besides a format: {asked[:80]!r}")
    return text


def _in_words(asked: str, n_images: int) -> str:
    parts = _PLACEHOLDER.split(asked)
    if not any(part.strip() for part in parts[1:-1]) and not (parts[0].strip() and parts[-1].strip()):
        return " ".join(part.strip() for part in parts if part.strip())
    text = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        is_apart = not text.strip() or (not part.strip() and number == n_images)
        name = "" if is_apart and n_images == 1 else "the image" if n_images == 1 else f"image {number}"
        text += name + part
    return text


def _numbers_in_words(text: str, n_images: int) -> str:
    """A text with words for placeholders that have a number, `<image 2>`. Raises BadRow where there is no such image."""
    if wrong := [number for number in map(int, _NUMBERED.findall(text)) if not 1 <= number <= n_images]:
        raise BadRow(f"its text names <image {wrong[0]}>, but the row has {n_images} images")
    return _NUMBERED.sub(lambda found: f"image {int(found[1])}", text)


def _without_numbers_apart(text: str, n_images: int) -> str:
    """A text without placeholders that have a number where these stand apart from its words and in order."""
    if [int(number) for number in _NUMBERED.findall(text)] != list(range(1, n_images + 1)) or not n_images:
        return text
    parts = _NUMBERED.split(text)[::2]
    if not any(part.strip() for part in parts[:-1]) and parts[-1].strip():
        return parts[-1]
    if n_images == 1:
        return parts[0] if not parts[1].strip() and parts[0].strip() else "the image".join(parts)
    return text


def _without_format(text: str) -> str:
    if _FORMAT.search(text) is None:
        return text
    sentences = _SENTENCE.findall(text)
    first = next((i for i, one in enumerate(sentences) if _FORMAT.search(one)), len(sentences))
    rest = [one for one in sentences[first:] if not _FORMAT.search(one)]
    # Behind the first such sentence often comes the form itself; what asks something is kept.
    kept = [*sentences[:first], *(rest if any("?" in one for one in rest) else [])]
    return "".join(kept).strip()


def _expression(asked: str, source: SourceRow) -> str:
    """What one box is asked for."""
    caption = source.row.get("normal_caption")
    if isinstance(caption, str) and caption.strip():
        return caption
    found = _ASKED_FOR.search(_PLACEHOLDER.sub("", asked))
    return found[1].strip() if found is not None else plain_question(asked, len(source.images))


def _boxes(asked: str, answer: str, source: SourceRow) -> list[Box] | None:
    """The boxes that an answer is, None where it is none. Raises BadRow for one that holds boxes which cannot be read."""
    is_about_boxes = _BOX_WORDS.search(asked) is not None
    has_tokens = _BOX_TOKENS.search(answer) is not None
    requested = published_rows.listed_categories(asked)
    starts = answer.startswith(("[", "{", "```"))
    if is_about_boxes and requested is None and published_rows.says_nothing(answer):
        raise BadRow(f"its answer is {answer[:40]!r}, and no list of names says what was looked for")
    if not (starts or has_tokens or requested is not None or (is_about_boxes and _FOUR.search(answer))):
        return None
    boxes = published_rows.answer_boxes(answer, none_is_empty=requested is not None)
    if boxes is None and (has_tokens or (is_about_boxes and _FOUR.search(answer))):
        raise BadRow(f"the answer holds boxes in a form that cannot be read: {answer[:80]!r}")
    if boxes and has_tokens and source.coords == "px" and not source.units.stated:
        raise UnitError(
            f"boxes in tokens, as {answer[:60]!r}, are thousandths for some models (Qwen2-VL, InternVL) and pixels for"
            " others (Qwen2.5-VL)",
            "--coords norm1000",
        )
    return boxes
