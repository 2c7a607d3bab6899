"""The words of a question: placeholders of images, sentences about the form of the answer, and whether it asks for a place.

Each task writes how an answer should look, so other projects' sentences about that go. Not here: options
(`vlrl.data.row_options`).
"""

from __future__ import annotations

import re

from vlrl.data.row_source import BadRow

IMAGE = "<image>"
_PLACEHOLDER = re.compile(r"<\|vision_start\|>.*?<\|vision_end\|>|<img>.*?</img>|<image>|<ImageHere>|<\|image\|>", re.DOTALL)
_NUMBERED = re.compile(r"<(?:image|img)[ _]?(\d{1,3})>")
"""A placeholder that says which image it stands for, as MMMU and MathVision have it."""
_OTHER_MEDIA = re.compile(r"<video>|<audio>")
_FORMAT = re.compile(
    r"</?think>|</?answer>|thinking process|output answer format|Please strictly follow|You FIRST think about"
    r"|MUST BE (?:put|enclosed)|Please think about this question as if|engage in an internal dialogue"
    r"|self-reflection or verification",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r".+?(?:[.?!:](?=\s|$)|\n|$)\s*", re.DOTALL)
_START = r"(?:(?<=^)|(?<=[\n.?!:。？])|(?<=[.?!:] ))[ \t]*(?:and |then )?(?:please )?(?:just |only |directly )?"
_GIVE = "answer|respond|reply|provide|give|output|write|return"
_WORDS = r"(?:[^.?!\n]|\.(?=\S)){0,120}?"
_END = r"(?:[^.?!:\n]|\.(?=\S)|:(?=\S)){0,200}(?:[.!:](?=\s|$)|(?=\n)|$)[ \t]*"
"""The words of a sentence, and its end, which no question mark is."""
_ABOUT_OPTIONS = re.compile(
    # "Answer with the option's letter from the given choices directly.", "Respond with only the letter (A, B or C) of ..."
    rf"{_START}(?:{_GIVE}|state|indicate|choose|select|pick)\b{_WORDS}"
    r"\b(?:options?'?s?'?|choices?'?s?'?|answers?'?s?|correct|right|corresponding|only (?:the|a|one)"
    rf"|with (?:the|a|one|an option)|single|capital) letters?\b{_END}"
    rf"|{_START}(?:{_GIVE})\b{_WORDS}\bletters? (?:of|for|corresponding|only|\(A)\b{_END}"
    # "Please select the correct answer from the options above."
    rf"|{_START}(?:select|choose|pick)\b{_WORDS}\b(?:correct|right|best|appropriate|suitable|accurate)\b{_WORDS}"
    rf"\b(?:options?|choices?|answers?|alternatives?|question)\b{_END}"
    rf"|{_START}(?:select|choose|pick) (?:one|an? (?:option|answer)|from)\b{_WORDS}"
    rf"\b(?:options?|choices?|following|above|below)\b{_END}"
    rf"|{_START}(?:answer|respond|reply)\b{_WORDS}\bwith (?:only )?(?:A|one of|the number|the index)\b{_END}"
    r"|请[^。！？\n]*(?:字母|选项)[^。！？\n]*[。！]?",
    re.IGNORECASE | re.MULTILINE,
)
_ABOUT_FORM = re.compile(
    # MathVista's hints
    rf"{_START}(?:hint:[ \t]*)?(?:please )?answer the question (?:requiring|and provide)\b{_END}"
    # "Let's think step by step.", "put your final answer within \\boxed{{}}."
    rf"|{_START}(?:let's |let us )?(?:first )?(?:think|reason|(?:solve|work through) (?:this|the) (?:problem|question|task))\b"
    rf"{_WORDS}\bstep[- ]by[- ]step\b{_END}"
    rf"|{_START}(?:{_GIVE}|put|enclose|present|place|box|express|your|the final|make sure|remember)\b{_WORDS}"
    rf"\\boxed\{{{_END}"
    r"|,?[ \t]*(?:and|then) (?:please )?(?:put|give|write|enclose|provide|present|place|box)\b[^.?!\n]*\\boxed\{\}?[^.?!\n]*",
    re.IGNORECASE | re.MULTILINE,
)
_ABOUT_BOXES = re.compile(
    rf"{_START}(?:{_GIVE}|format|report)\b{_WORDS}\b(?:in|as|using|into) (?:a |the )?(?:valid )?json\b{_END}",
    re.IGNORECASE | re.MULTILINE,
)
_BY_SIGNS = (
    (re.compile(r"[Ss]tep[- ]by|boxed|nswer the question (?:requiring|and provide)"), _ABOUT_FORM),
    (re.compile("json", re.IGNORECASE), _ABOUT_BOXES),
)
"""What a text must hold for a pattern to be tried, which takes time."""
_SIGNS_OF_OPTIONS = re.compile(r"[Ll]etter|[Ss]elect|[Cc]hoose|[Pp]ick|\bwith\b|字母|选项")
_HAS_OPTIONS = re.compile(r"(?:^|\s)[(\[]?A[)\].:、]", re.MULTILINE)
_ANSWER_FOLLOWS = re.compile(
    r"\W*(?:(?:the |your |my )?(?:(?:best|correct|final|right) )?(?:answer|option|choice)(?: is)?|答案)\s*[:：]?\s*",
    re.IGNORECASE,
)
"""The last line of a text, which the answer completes."""
_MAX_CHARS = 20_000
"""Longer texts are shown whole."""
_FIRST_OPTION = re.compile(r"\s*\(?A[).:]")
_ASKS_NOTHING = re.compile(r"\W*(?:(?:question|hint|choices|options)\W*)*", re.IGNORECASE)

_PLACE = re.compile(
    r"\bb(?:ounding[ -])?box|\bcoordinate|\bbbox|坐标|边界框|检测框|\bxyxy\b",
    re.IGNORECASE,
)
_MAYBE_PLACE = re.compile(r"\bregion\b|\blocat|\bdetect|\bground|\bwhere\b|\bposition\b|\bpoint out\b|定位|位置", re.IGNORECASE)
_NUMBERS = re.compile(
    r"\bhow (?:many|much|long|old|far|often)\b|\b(?:numbers?|digits?|counts?|values?|scores?|ages?|prices?|years?|ranks?|sums?"
    r"|percent\w*|amounts?|totals?|sequence|intervals?|matrix|vector|sizes?|dimensions?|times?)\b",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"[?？]|^\W*(?:please )?(?:list|count|how|what|which|who|when|why|read|write|name|calculate|compute|solve|sort|order|rank"
    r"|extract|report|tell|predict|estimate|transcribe|is|are|does|do|can)\b",
    re.IGNORECASE,
)
_ALL_OF = re.compile(
    r"\b(?:all|every|each)\b(?:\s+(?:of|the|instances?|occurrences?|visible|possible|single))*\s+"
    r"((?:(?!(?:in|within|on|from|that|and|with|or|as|using|of)\b)[^\s.,;:?!]+\s*){1,6})",
    re.IGNORECASE,
)
_DETECTING = re.compile(
    r"\b(?:detect|find|locat|identif|mark|segment|outline|ground|bound|box|bbox|label|annotat|spot|point out)", re.IGNORECASE
)
_NAMED = re.compile(
    r"\b(?:detect|find|locate|identify|mark|segment|ground|label|spot|point out)\s+(?:the |any |some |a |an )?"
    r"((?:(?!(?:in|within|on|from|that|and|with|or|as|using|of|output|report)\b)[^\s.,;:?!]+\s*){1,6})",
    re.IGNORECASE,
)
_ANY_OBJECT = re.compile(
    r"(?:objects?|things?|items?|instances?|elements?|targets?|entities|bounding box(?:es)?|box(?:es)?)", re.I
)
_OF_BOXES = re.compile(r"\s*(?:bounding[ -]?box(?:es)?|bbox(?:es)?|box(?:es)?)$", re.IGNORECASE)


def asks_for_a_place(text: str) -> bool:
    """Whether a question is about where something is, so that four numbers may be a box."""
    if _PLACE.search(text):
        return True
    return _MAYBE_PLACE.search(text) is not None and _NUMBERS.search(text) is None


def asks_for_numbers(text: str) -> bool:
    """Whether a text that names no place is a question, or about numbers, rather than the name of a thing."""
    return _QUESTION.search(_PLACEHOLDER.sub("", text).strip()) is not None or _NUMBERS.search(text) is not None


def wanted_all(text: str) -> str | None:
    """What a text asks to be found wherever it is ("detect all red cars": "red cars"); "" where that is any object; None where
    it does not ask for all."""
    found = _ALL_OF.search(text)
    if found is None or not _DETECTING.search(text):
        return None
    name = _OF_BOXES.sub("", found[1].strip())
    return "" if not name or _ANY_OBJECT.fullmatch(name) else name


def named_thing(text: str) -> str:
    """What a text asks to be found ("Detect the cars.": "cars"); "" where that is any object, or nothing."""
    found = _NAMED.search(text)
    name = "" if found is None else _OF_BOXES.sub("", found[1].strip())
    return "" if _ANY_OBJECT.fullmatch(name) else name


def without_placeholders(text: str) -> str:
    return _PLACEHOLDER.sub("", text)


def _without_instructions(text: str, *, has_choices: bool, has_boxes: bool) -> str:
    """A text without sentences about the form of the answer; whole where nothing else would be left."""
    if len(text) > _MAX_CHARS:
        return text
    patterns = [pattern for signs, pattern in _BY_SIGNS if signs.search(text) and (has_boxes or pattern is not _ABOUT_BOXES)]
    if has_choices or _HAS_OPTIONS.search(text):
        before, _, last = text.rstrip().rpartition("\n")
        text = before.rstrip() if before and len(last) < 100 and _ANSWER_FOLLOWS.fullmatch(last) else text
        patterns += [_ABOUT_OPTIONS] if _SIGNS_OF_OPTIONS.search(text) else []
    for pattern in patterns:
        rest = pattern.sub("", text)
        if rest != text:
            rest = "\n".join(line for line in rest.split("\n") if line.strip()).strip()
            text = text if _ASKS_NOTHING.fullmatch(rest) or _FIRST_OPTION.match(rest) else rest
    return text


def plain_question(asked: str, n_images: int, *, has_choices: bool = False, has_boxes: bool = False) -> tuple[str, bool]:
    """The question without placeholders of images and without sentences about the format of the answer, and whether it had
    any of these. A placeholder between words becomes words, "image 2" or "the image". Raises BadRow where nothing is left, or
    placeholders and images do not match. `has_choices`: the row has options elsewhere; `has_boxes`: its answer is boxes."""
    if _OTHER_MEDIA.search(asked):
        raise BadRow("it asks about a video or a sound, which rows of this form cannot bring here")
    n = len(_PLACEHOLDER.findall(asked))
    if n and n != n_images:
        raise BadRow(f"its question has {n} image placeholders, but the row has {n_images} images")
    whole = with_named_images(asked, n_images)
    text = without_format(whole, has_choices=has_choices, has_boxes=has_boxes)
    if not text:
        said = "nothing is left of its question without placeholders and sentences about the form of the answer"
        raise BadRow(f"{said}: {asked[:80]!r}")
    return text, text != whole


def with_named_images(asked: str, n_images: int) -> str:
    """A text whose placeholders are words, or gone where they stand apart from its words."""
    text = _without_numbers_apart(_in_words(asked, n_images), n_images)
    return numbers_in_words(text, n_images).strip()


def _in_words(asked: str, n_images: int) -> str:
    parts = _PLACEHOLDER.split(asked)
    if not any(part.strip() for part in parts[1:-1]) and not (parts[0].strip() and parts[-1].strip()):
        return " ".join(part.strip() for part in parts if part.strip())
    text = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        has_a_line = n_images == 1 and text.endswith("\n") and part.startswith("\n")
        is_apart = not text.strip() or (not part.strip() and number == n_images) or has_a_line
        name = "" if is_apart and n_images == 1 else "the image" if n_images == 1 else f"image {number}"
        text += name + (part[1:] if has_a_line else part)
    return text


def numbers_in_words(text: str, n_images: int) -> str:
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


def without_format(text: str, *, has_choices: bool = False, has_boxes: bool = False) -> str:
    """A text without its sentences about thoughts and tags, and about the form of the answer."""
    if _FORMAT.search(text) is not None:
        sentences = _SENTENCE.findall(text)
        first = next((i for i, one in enumerate(sentences) if _FORMAT.search(one)), len(sentences))
        rest = [one for one in sentences[first:] if not _FORMAT.search(one)]
        # Behind the first such sentence often comes the form itself; what asks something is kept.
        asks = any("?" in one or _FIRST_OPTION.match(one) for one in rest)
        kept = [*sentences[:first], *(rest if asks else [])]
        text = "".join(kept).strip()
    return _without_instructions(text, has_choices=has_choices, has_boxes=has_boxes)
