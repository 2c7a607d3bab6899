"""The options of a question: listed in its text (`A. cat`, `(A) cat (B) dog`), in a cell of text, or with letters before them.

Not here: columns that hold them (`vlrl.data.row_families`), sentences about the form of the answer (`vlrl.data.row_wording`).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from vlrl.answers.choices import choice_letter
from vlrl.answers.span import canon
from vlrl.answers.text import LETTERS

_STYLES = (r"\(({})\)", r"({})\.(?!\S)", r"({})\)", r"({}):(?!\S)", r"({})、", r"\[({})\]", r"({})\.(?=\S)", r"({}):(?=\S)")
"""How letters mark options, `{}` for a letter; of one list all alike."""
_MARKS = tuple(
    (re.compile(rf"(?:(?<=^)|(?<=[\s,;?:.!。？：]))\*{{0,2}}{style.format(letters)}\*{{0,2}}[ \t]*", re.MULTILINE), letters)
    for letters in ("[A-Z]", "[a-z]")
    for style in _STYLES
)
_A_MARK = re.compile(r"[Aa][)\].:、]")
_HEADING = re.compile(
    r"(?:^|(?<=[\s?.:!]))\W{0,3}(?:(?:please )?(?:choose|select|pick|answer)\b[^.?!\n]*)?"
    r"(?:(?:the |possible |answer )?(?:choices|options|candidates)(?: are)?|选项)\s*[:：]?\W{0,3}$",
    re.IGNORECASE,
)
_UNMARKED = re.compile(r"(?:^|(?<=[\s?.!]))(?:choices|options|candidates)\s*:\s*([^\n]+)$", re.IGNORECASE)
_LABEL = re.compile(r"^[ \t]*(?:question|问题)\s*[:：][ \t]*", re.IGNORECASE | re.MULTILINE)
_NO_CONTEXT = re.compile(r"^[ \t]*(?:context|hint)\s*:[ \t]*(?:N/?A|none|no context)?[ \t]*\.?[ \t]*\n", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Z])[).:]?")
_LETTER_FIRST = re.compile(r"\(?([A-Z])[).:]\s")
_MAX_OPTION = 400


def letter_of(answer: Any, choices: Sequence[str]) -> str | None:
    """The letter of the right choice, given as a letter, a choice's text or a number from 0; None where there is none."""
    valid = LETTERS[: len(choices)]
    if isinstance(answer, int) and not isinstance(answer, bool):
        return valid[answer] if 0 <= answer < len(valid) else None
    if not isinstance(answer, str):
        return None
    same = [letter for letter, choice in zip(valid, choices, strict=False) if canon(choice) == canon(answer)]
    if len(same) == 1:
        return same[0]
    found = _LETTER.fullmatch(answer.strip()) or _LETTER_FIRST.match(answer.strip())
    return found[1] if found is not None and found[1] in valid else None


def is_bare_letter(answer: str) -> bool:
    """Whether an answer is a letter alone, as `B` or `(B)`."""
    return _LETTER.fullmatch(answer.strip()) is not None


def listed_options(text: str) -> tuple[str, tuple[str, ...]] | None:
    """A question without the options that end it, and these; None where it lists none. Options are marked in one way from A on,
    one a line or after each other."""
    if _A_MARK.search(text) is None:
        return None
    for pattern, letters in _MARKS:
        marks = list(pattern.finditer(text))
        names = [mark[1].upper() for mark in marks]
        if "A" not in names:
            continue
        first = len(names) - 1 - names[::-1].index("A")
        run = marks[first:]
        if len(run) < 2 or names[first:] != list(LETTERS[: len(run)]):
            continue
        ends = [mark.start() for mark in run[1:]] + [len(text)]
        parts = [text[mark.end() : end].strip().rstrip(",;，；").rstrip() for mark, end in zip(run, ends, strict=True)]
        asked = text[: run[0].start()].rstrip().removesuffix("(").rstrip()
        begins_line = text[: run[0].start()].rpartition("\n")[2].strip() == ""
        if not all(parts) or "\n" in parts[-1] or any(len(part) > _MAX_OPTION for part in parts) or not asked:
            continue
        parts = [" ".join(part.split()) for part in parts]
        has_heading = _HEADING.search(asked) is not None
        if not (begins_line or has_heading or asked[-1] in "?？:：.。" or "(" in run[0][0]) or (
            letters == "[a-z]" and not begins_line
        ):
            continue
        return without_question_label(_HEADING.sub("", asked)) or asked, tuple(parts)
    return None


def named_options(text: str, answer: str) -> tuple[str, tuple[str, ...]] | None:
    """A question without the options that end it without marks (`Options: cat, dog`), and these; None where it lists none, or
    the answer is none of them."""
    found = _UNMARKED.search(text)
    listed = options_of_text(found[1]) if found is not None else None
    if found is None or listed is None or sum(canon(one) == canon(answer) for one in listed) != 1:
        return None
    asked = text[: found.start()].strip()
    return (asked, tuple(listed)) if asked else None


def without_question_label(text: str) -> str:
    """A question without words that only say that it is one, or that it has no context."""
    return _LABEL.sub("", _NO_CONTEXT.sub("", text)).strip()


def chosen_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter that an answer of any length names: as `letter_of`, else as completions are read (`The answer is B.`)."""
    return letter_of(answer, choices) or choice_letter(_last_statement(answer), choices)[0]


def _last_statement(answer: str) -> str:
    """Behind `ANSWER:`, as some sets end an explanation."""
    before, found, after = answer.rpartition("ANSWER:")
    return after.strip() if found and before else answer


def without_letters(choices: Sequence[str]) -> tuple[str, ...]:
    """Choices without the letters that all of them begin with, each with its own."""
    for style in _STYLES:
        found = [
            re.fullmatch(style.format(letter) + r"\s*(\S.*)", choice.strip(), re.DOTALL)
            for letter, choice in zip(LETTERS, choices, strict=False)
        ]
        if len(choices) > 1 and all(found):
            return tuple(one[2] for one in found if one is not None)
    return tuple(choices)


def options_of_text(text: str) -> list[str] | None:
    """The options in a cell of text: a list as JSON or Python writes it, one a line, with marks, or between `|`, `;` or commas.
    None where it is only one."""
    text = text.strip()
    if text[:1] in "[({":
        try:
            listed = json.loads(text)
        except ValueError:
            try:
                listed = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                listed = None
        if isinstance(listed, dict):
            listed = list(listed.values())
        if isinstance(listed, list | tuple):
            return [str(one) for one in listed]
    if (found := listed_options(f"?\n{text}")) is not None:
        return list(found[1])
    for sign in ("\n", "|", ";", ","):
        parts = [part.strip() for part in text.split(sign) if part.strip()]
        if len(parts) > 1:
            return parts
    return None
