"""Where the final mathematical answer stands in a text: in a box, behind "the answer is", as the whole text, or as the one
value of a sentence. Several different ones, a negated one or one that is only a bound are no answer.

The last of several counts only where the text says that it replaces the former ("wait", "correction", "I mean").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

from vlrl.answers.math_derived import MARKS, REPLACES, derived, reads, trimmed
from vlrl.answers.math_symbols import MAX_FORMULA_CHARS, is_unit, plain_form
from vlrl.answers.math_words import clause_before, clause_behind, in_figures, makes_no_answer, unclear_before, unclear_behind
from vlrl.answers.mathematics import read_mathematics
from vlrl.answers.phrases import before as window_before
from vlrl.answers.phrases import behind as window_behind
from vlrl.answers.phrases import denied, last_replacement, one_spaced

MAX_ANSWER_CHARS = 200_000
MAX_STATEMENTS = 50
MAX_PROSE_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """`texts`: what the text says its answer is, each a formula as a whole; all must be right. Empty: there is none, `why`."""

    texts: tuple[str, ...] = ()
    why: str = ""


_NEGATION = (
    r"\b(?:not|never|isn['’]?t|wasn['’]?t|aren['’]?t|doesn['’]?t|don['’]?t|can['’]?t|cannot|couldn['’]?t|won['’]?t|neither|nor|without"
    r"|except|excluding|unlike|unequal|rather\s+than|instead\s+of|anything\s+but|other\s+than|opposed\s+to|nicht|kein\w*|pas|nunca|jamais)\b"
    r"|\\(?:neq?|not)(?![A-Za-z])|!=|不是|并非|不等|不会|不为|≠|ではない|でない|아니|ليس"
)
_NEGATED_BEFORE = re.compile(rf"(?:{_NEGATION})\s*(?:[A-Za-z]+\s+){{0,2}}[\s:$(\"'*=]*\Z", re.I)
_NEGATED = re.compile(_NEGATION, re.I)
_TAKEN_BACK = re.compile(
    r"\b(?:wrong|incorrect|false|mistaken?|error|untrue|impossible|ruled\s+out|nope)\b|\?\s*no\b|(?:^|[.,;!?\n])\s*no\s*(?:[.,;!]|\Z)|\bno\s*[.!]?\s*\Z"
    r"|\bnot\s+(?:the\s+)?(?:right|correct|true|answer|it|so)\b|错|不对|不正确|不是|ではありません|ではない|아닙니다|아니",
    re.I,
)
_BOUND = re.compile(
    r"\b(?:at\s+(?:least|most)|(?:less|more|fewer|greater|larger|smaller|higher|lower|bigger|other)\s+than|up\s+to|over|under|above|below|between"
    r"|almost|nearly|within|beyond|exceed\w*|anywhere|from|ranges?|minimum\s+of|maximum\s+of|no\s+more|no\s+less|unless|if"
    r"|half|twice|double|triple|thrice|quarter|plus|minus|(?<!\\)times|divided|squared|cubed)\b"
    r"|至少|至多|最多|最少|大于|小于|超过|不到|之间|以上|以下|以内|少なくとも|最大で|から",
    re.I,
)
_DOUBT = re.compile(
    r"\b(?:or|either|otherwise|alternatively|maybe|perhaps|possibly|could\s+be|might\s+be)\b|或|也可能|または|또는", re.I
)
_STATEMENT = re.compile(
    r"(?:\b(?:(?:final|correct|right|exact|numerical|my)\s+)*(?:answer|result|solution|value|total|sum|count|number)s?"
    r"(?:\s+(?:to|of|for|in|on)\s+[^.:=\n]{1,60}?)?"
    r"(?:\s*\*\*)?\s*(?:\bis\b|\bare\b|\bequals\b|\bwould\s+be\b|\bwill\s+be\b|\bshould\s+be\b|\bmust\s+be\b|\bwas\b|:|=|->)(?:\s*(?:\*\*|[:=]))*"
    r"|(?:最终|最終|正确|正確)?(?:答案|结果|結果|答え|解答|答)\s*(?:应该|應該|应|應)?(?:是|为|為|等于|は|:|=)+\s*:?"
    r"|(?:정답|답)\s*(?:은|는|이|:)+|\bla\s+respuesta\s+(?:final\s+)?es\b|\bla\s+r[ée]ponse\s+(?:finale\s+)?est\b|\bdie\s+antwort\s+(?:ist|lautet)\b"
    r"|\bres?posta\s+(?:final\s+)?[ée]\b|\bответ\s*:?|\bالإجابة\s+(?:هي)?|\####)",
    re.I,
)
_CONCLUSION = re.compile(
    r"(?:^|[.;!?\n]\s{0,8}|,\s{0,8})(?:(?:so|thus|hence|therefore|consequently|in\s+total|altogether|(?:for|giving|making|which\s+gives)\s+a\s+total\s+of)\b|所以|因此|故)[,:]?",
    re.I,
)
_SENTENCE_END = re.compile(
    r"(?<![0-9])\.(?=\s|\Z)|(?<=[0-9])\.(?=\s+[A-Z$\\]|\s*\Z)|[\n;]|(?<=\s)because\b|\bsince\b|\bas\s+(?:the|we|it)\b|!(?=\s|\Z)|\?(?=\s|\Z)"
)
_PROSE = re.compile(r"\\text(?:bf|it|rm)?\s*\{([^{}]{0,80}\b(?:is|are|answer|so|therefore)\b[^{}]{0,40})\}", re.I)
_SPECIAL_TOKEN = re.compile(r"<\|[A-Za-z_]{1,30}\|>")


def final_answer(text: str) -> FinalAnswer:
    """The final answer of a text. Linear in the text."""
    text = plain_form(text)
    if len(text) > MAX_ANSWER_CHARS:
        return FinalAnswer(why=f"longer than {MAX_ANSWER_CHARS} characters")
    text = one_spaced(in_figures(_SPECIAL_TOKEN.sub(" ", text)))
    text = _PROSE.sub(r" \1 ", text)
    if "\\boxed" in text or "\\fbox" in text:
        return _of_boxes(text)
    whole = trimmed(text)
    is_whole = reads(whole)
    if len(whole) <= MAX_FORMULA_CHARS and (not is_whole or "\n" in whole or " (" in whole):
        last = derived(whole)
        if last is not None:
            return FinalAnswer((last,))
    if is_whole:
        return FinalAnswer((whole,))
    statements = _statements(text)
    if statements:
        return _of_statements(text, statements)
    if len(text) > MAX_PROSE_CHARS:
        return FinalAnswer(why=f"no statement of an answer in {len(text)} characters")
    conclusions = [found.end() for found in _CONCLUSION.finditer(text)]
    if conclusions:
        found = _of_sentence(text[conclusions[-1] :], text[: conclusions[-1]])
        if found.texts:
            return found
    return _of_sentence(text, "")


# ---- boxes


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{...}`, the text itself where there is none, None where it is not closed."""
    boxes = list(boxed_contents(text))
    if not boxes:
        return text
    return None if boxes[-1][2] is None else boxes[-1][2].strip()


def boxed_contents(text: str) -> Iterator[tuple[int, int, str | None]]:
    """Start, end and content of each `\\boxed{...}`; None for one that is not closed. One pass over the text."""
    until = 0
    for found in re.finditer(r"\\(?:boxed|fbox)\s*(?:(\{)|([0-9]{1,40}|[A-Za-z]))", text):
        if found.start() < until:
            continue
        if not found[1]:
            until = found.end()
            yield found.start(), until, found[2]
            continue
        depth, at = 1, found.end()
        for brace in re.compile(r"\\.|[{}]", re.S).finditer(text, found.end()):
            depth += (brace[0] == "{") - (brace[0] == "}")
            at = brace.end()
            if depth == 0:
                break
        until = at if depth == 0 else len(text)
        yield found.start(), until, None if depth else text[found.end() : at - 1]


def _of_boxes(text: str) -> FinalAnswer:
    boxes = []
    for box in boxed_contents(text):
        boxes.append(box)
        if len(boxes) > MAX_STATEMENTS:
            return FinalAnswer(why=f"more than {MAX_STATEMENTS} boxes")
    if not boxes or any(content is None for _, _, content in boxes):
        return FinalAnswer(why="a box that is not closed")
    contents = [(start, end, trimmed(content or "")) for start, end, content in boxes]
    between = [text[a[1] : b[0]] for a, b in pairwise(contents)]
    if between and all(re.fullmatch(r"[\s$.]*(?:,|;|\band\b|\bor\b|,\s*and\b)[\s$]*", one, re.I) for one in between):
        contents = [(contents[0][0], contents[-1][1], ", ".join(content for _, _, content in contents))]
    elif between and _replaces(between[-1]):
        contents = contents[-1:]
    texts = []
    for start, end, content in contents:
        problem = _problem_around(text, start, end)
        if problem:
            return FinalAnswer(why=problem)
        texts.append(content + _unit_behind(text[end : end + 40]))
    last = contents[-1][1]
    if _replaced_by_another(text[last : last + 2_000], contents[-1][2]):
        return FinalAnswer(why="an answer that is taken back")
    before = _statements(text[: contents[0][0]])
    behind = _statements(text[last:], last)
    if (
        before
        and not _replaces(text[before[-1] : contents[-1][0]])
        and _in_another_sentence(text[before[-1] : contents[-1][0]])
    ):
        texts += _of_statements(text[: contents[0][0]], before).texts
    if behind:
        stated = _of_statements(text, behind)
        if not stated.texts:
            return stated
        texts = list(stated.texts) if _replaces(text[last : behind[-1]]) else texts + list(stated.texts)
    return FinalAnswer(tuple(dict.fromkeys(texts)))


def _replaces(text: str) -> bool:
    """Whether a text says that what follows replaces what stands before it."""
    return REPLACES.search(text) is not None or last_replacement(text) is not None


def _in_another_sentence(between: str) -> bool:
    return _SENTENCE_END.search(between) is not None


def _problem_around(text: str, start: int, end: int) -> str:
    """Why what stands at `start:end` is not affirmed as the answer, or ""."""
    before = re.split(r"[.;:!?\n,]\s", text[max(0, start - 80) : start])[-1]
    if denied(window_before(text, start), window_behind(text, end)):
        return "only says what the answer is not"
    if _NEGATED_BEFORE.search(before) or re.search(r"\b(?:not|never)\s+[\s$]*\Z", before):
        return "only says what the answer is not"
    if _BOUND.search(" ".join(before.split()[-3:])) and not before.rstrip().endswith(("is", "=", ":")):
        return "only a bound of the answer"
    words = " ".join(before.split()[-4:])
    no_answer = makes_no_answer(f"{words} 0") or makes_no_answer("0 " + " ".join(clause_behind(text, end).split()[:4]))
    if no_answer or unclear_behind(text[end : end + 20]):
        return no_answer or unclear_behind(text[end : end + 20])
    behind = text[end : end + 200]
    if re.match(r"[\s$]*(?:\bor\b|/|\bto\b|或)\s*[\s$]*[-0-9\\]", behind) or re.search(
        r"(?:[0-9}]\s*(?:\bor\b|或)|\beither\b)[\s$]*\Z", before
    ):
        return "several answers"
    if re.match(r"[\s$]*(?:,|\band\b)\s*[0-9]", behind) or re.search(
        r"[0-9}]\s*(?:,|\band\b|\bto\b)[\s$]*\Z", text[max(0, start - 20) : start]
    ):
        return "several answers"
    if _TAKEN_BACK.search(text, end, end + 2_000) and not _replaces(text[end : end + 2_000]):
        return "an answer that is taken back"
    if re.match(r"[\s$.]*\?", behind):
        return "a question, not an answer"
    return ""


def _unit_behind(behind: str) -> str:
    found = re.match(r"[\s$]*(\\?%|[A-Za-z]+)", behind)
    if found is None:
        return ""
    return (
        " " + found[1]
        if found[1].lstrip("\\") == "%" or (len(found[1]) > 1 and is_unit(found[1]) and found[1] not in ("in", "a"))
        else ""
    )


# ---- statements


def _statements(text: str, shift: int = 0) -> list[int]:
    """Where the statements "the answer is" end."""
    return [shift + match.end() for match in islice(_STATEMENT.finditer(text), MAX_STATEMENTS + 1)]


def _of_statements(text: str, ends: list[int]) -> FinalAnswer:
    """What follows each statement, up to its sentence's end. All count, unless the last replaces the others."""
    if len(ends) > MAX_STATEMENTS:
        return FinalAnswer(why=f"more than {MAX_STATEMENTS} statements of an answer")
    found: list[tuple[int, FinalAnswer]] = []
    for i, end in enumerate(ends):
        until = min(ends[i + 1] if i + 1 < len(ends) else len(text), end + MAX_PROSE_CHARS)
        found.append((end, _of_sentence(_first_line(text[end:until]), text[max(0, end - 120) : end])))
    read = [(end, one) for end, one in found if one.texts]
    if not read or read[-1][0] != found[-1][0]:
        return found[-1][1]
    end, last = read[-1]
    if not last.texts:
        return last
    if _TAKEN_BACK.search(text[end : end + 2_000]):
        return FinalAnswer(why="an answer that is taken back")
    if len(read) > 1 and _replaces(text[read[-2][0] : end]):
        return last
    stated = tuple(dict.fromkeys(one for _, answer in read for one in answer.texts))
    if _replaced_by_another(text[end : end + 2_000], last.texts[-1]):
        return FinalAnswer(why="an answer that is taken back")
    return FinalAnswer(stated)


def _replaced_by_another(behind: str, stated: str) -> bool:
    """Whether a text says "wait" or "I mean" and then ends in another number than the stated one."""
    found = REPLACES.search(behind)
    numbers = re.findall(r"[0-9][0-9.,]*", behind[found.end() :]) if found else []
    return bool(numbers) and numbers[-1].rstrip(".,") not in re.findall(r"[0-9][0-9.,]*[0-9]|[0-9]", stated)


def _first_line(text: str) -> str:
    text = text.lstrip()
    if text.startswith(("$$", "\\[")):
        end = text.find("$$" if text[0] == "$" else "\\]", 2)
        return text[: end + 2] if end > 0 else text
    return text.partition("\n")[0] or text


def _of_sentence(text: str, before: str) -> FinalAnswer:
    """The one value of a sentence: the whole of it as a formula, or its one formula between words."""
    clause = re.split(r"[.;!?\n]|,(?![0-9])", before)[-1]
    if _NEGATED.search(clause) or makes_no_answer(clause):
        return FinalAnswer(why="only says what the answer is not")
    whole = trimmed(text)
    if not whole:
        return FinalAnswer(why="nothing is stated")
    if len(whole) <= MAX_FORMULA_CHARS and not isinstance(read_mathematics(whole), str):
        return FinalAnswer((whole,))
    text = text.strip(MARKS)
    end = _SENTENCE_END.search(text)
    first = trimmed(text[: end.start()]) if end else whole
    if end is not None and end[0] == "?" and not re.search(r"[0-9\\]", text[end.end() :]):
        return FinalAnswer(why="a question, not an answer")
    if (
        before
        and end is not None
        and first
        and len(first) <= MAX_FORMULA_CHARS
        and not isinstance(read_mathematics(first), str)
    ):
        taken_back = end[0] == "?" or _TAKEN_BACK.search(text[end.start() :])
        return FinalAnswer(why="an answer that is taken back") if taken_back else FinalAnswer((first,))
    return _between_words(first if before and first else whole)


# ---- a formula between words

_FORMULA = re.compile(
    r"\$\$?[^$]{1,500}\$?\$|\\\([^\n]{1,500}?\\\)|\\\[.{1,500}?\\\]"
    r"|(?:(?:[A-Za-z]\s*=\s*)?[-+(\[{|]{0,8}(?:[0-9.]*[0-9]|\\(?!text|and\b|or\b)[A-Za-z]+|[$€£¥₹])"
    r"(?:[0-9A-Za-z\\{}()\[\]^_.,%/+*=!|'-]|\s*(?:[-+*/=^<>]|\\(?:times|cdot|div|pm|sqrt|frac|pi|approx))\s*|\s(?=[0-9\\]))*)",
    re.S,
)
_JOINT = re.compile(r"\s*(?:,|;|\band\b|\bor\b|,\s*and\b|或|和)\s*", re.I)


def _between_words(text: str) -> FinalAnswer:
    """The one formula of a sentence. Formulas behind a "not" do not count; equal ones are one; different ones are none."""
    found = [
        match
        for match in _FORMULA.finditer(text)
        if re.search(r"[0-9]|\\(?!text)[A-Za-z]", match[0]) and text[match.start() - 1 : match.start()] != "^"
    ]
    if not found:
        return FinalAnswer(why="no number and no formula")
    if len(found) > MAX_STATEMENTS:
        return FinalAnswer(why="too many numbers")
    rest = text
    kept: list[str] = []
    for match in reversed(found):
        before = text[max(0, match.start() - 60) : match.start()]
        negated = _NEGATED_BEFORE.search(before)
        if negated:
            rest = rest[: match.start() - len(before) + negated.start()] + " " * 3 + rest[match.end() :]
            continue
        if denied(window_before(text, match.start()), window_behind(text, match.start() + len(match[0].rstrip(" .,;:?")))):
            rest = rest[: match.start()] + " " * 3 + rest[match.end() :]
            continue
        formula = match[0].rstrip(" .,;:?([")
        if formula.endswith("!") and not formula.endswith("!!") and re.search("[A-Za-z]{2}", text[: match.start()]):
            formula = formula[:-1]  # the end of a sentence, no factorial
        problem = _problem_beside(text, match.start(), match.start() + len(formula))
        if problem:
            return FinalAnswer(why=problem)
        unit = _unit_words(text[match.start() + len(formula) :][:60])
        kept.append(trimmed(formula) + unit)
    if not kept:
        return FinalAnswer(why="only says what the answer is not")
    if _NEGATED.search(rest) or _TAKEN_BACK.search(rest):
        return FinalAnswer(why="a negated answer")
    if _BOUND.search(rest):
        return FinalAnswer(why="only a bound of the answer")
    if _DOUBT.search(rest) and len(kept) > 1:
        return FinalAnswer(why="several answers")
    unread = [one for one in kept if isinstance(read_mathematics(one), str)]
    if unread:
        return FinalAnswer(why=f"{unread[0][:60]!r} cannot be read as a whole: {read_mathematics(unread[0])}")
    return FinalAnswer(tuple(dict.fromkeys(reversed(kept))))


def _problem_beside(text: str, start: int, end: int) -> str:
    """Why the words of a number's clause make it no answer, or ""."""
    before, behind = clause_before(text, start), clause_behind(text, end)
    if makes_no_answer(f"{before} 0 {behind}"):
        return makes_no_answer(f"{before} 0 {behind}")
    if _BOUND.search(before):
        return "only a bound of the answer"
    is_apart = "=" in text[start:end] or (
        text[start] == "(" and before.strip() != ""
    )  # an equation, or a figure behind its word
    return ("" if is_apart else unclear_before(before)) or unclear_behind(behind)


def _unit_words(behind: str) -> str:
    """The units right behind a number in a sentence, with a space before them: " square meters"."""
    words: list[str] = []
    for word in re.split(r"[,;:!?]|\.(?:\s|\Z)", behind)[0].split()[:4]:
        if not (is_unit(word) and word.casefold() not in ("in", "a", "t", "as", "person")) and not (words and word == "per"):
            break
        words.append(word)
    return "".join(f" {word}" for word in words)
