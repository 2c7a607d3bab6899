"""From the text of an answer to the letter of a choice, or None with a reason.

A text is read as a set of choices that it asserts, by letter or by a choice's text. A denied one is not asserted ("not B"),
several different ones are no answer, and an earlier one counts no more only where the text says that it replaces it. All
letters are alike: one counts where no word can stand (`A.`, `(A)`, `A is right`, `A red` for the choice "red").
differs from VLMEvalKit and lmms-eval, which take the first or the last letter that they find, or draw one at random.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from vlrl.answers import phrases
from vlrl.answers.normalise import normalised
from vlrl.answers.span import canon
from vlrl.answers.text import number, reference_texts
from vlrl.schema import Sample

LETTERS = string.ascii_uppercase
MAX_MENTIONS = 400
"""A text that names choices more often is no answer."""

_LATIN = r"[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0600-\u06ff\u0900-\u0dff\u0e00-\u0e7f\ue000-\uf8ff]"
"""A character that makes a letter beside it part of a word; scripts written without spaces do not."""
_FIRST = 0xE000
_MENTION = re.compile(
    rf"(?P<text>[\ue000-\ue019])|(?<!{_LATIN})(?<!{_LATIN}[-'’])(?:(?P<upper>[A-Z])|(?P<lower>[a-z]))(?!{_LATIN})(?![-'’]{_LATIN})"
)
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|mathit|rm|bf|emph)\s*\{([^{}\\]{0,400})\}")
_MARKS = re.compile(r"[*`#|~]+|(?<![^\W_])_+|_+(?![^\W_])|\\[()\[\]]|\$(?![0-9])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]{0,400})\}")
_BOX_OPEN, _BOX_CLOSE = "\uf000", "\uf001"
_SEPARATOR = re.compile(
    r"(?:[\s.,:;()\[\]{}\"'/&+>=\uf000\uf001-]|\b(?:is|means|which|i\.e|namely|the|a|an|option|choice|or|and|either|as|well|even|maybe"
    r"|possibly|perhaps|oder|und|ist|o|u|y|es|ou|et|est|e|è|é|или|и)\b"
    r"|对应|对应的是|选项|即|是|为|和|或者|还是|或|与|及|以及|か|または|と|は|や|또는|혹은|와|과|أو|و){0,8}"
)
_DELIMITER = re.compile(r"\s*(?:[.:)\],、-]|\Z)")
_FOLLOWS = re.compile(
    r"[^\S\n]*\n|\s*(?:\Z|[^\w\s]|[\u0370-\uffff])|\s+(?:[A-Z](?![^\W_])|\d+[).])|\s+(?:is|it|was|are|were|as|because|since|for|which|with|based"
    r"|due\s+to|in|from|by|on|and|or|but|so|not\s+(?:[A-Z]\b|the\b|correct|right)|(?:would|could|should|may|might|must|can|will)"
    r"\s+(?:be|not|also|have|seem|fit)|cannot|does|doesn't|isn't|wasn't|can't|has|have|had|seems?|looks?|appears?|shows?|fits?|matches"
    r"|describes|depicts|represents|corresponds|contains|makes|then|than|if|when|where|that|also|instead|option|above|below"
    r"|rather\s+than|unless|vs|versus|alternatively|otherwise|else|respectively|maybe|perhaps|possibly|plus(?=\s+\W?[A-Z\ue000-\ue019]\b)|therefore|thus|wins|works|applies|only\s*(?:\Z|[.,!])"
    r"|ist|sind|weil|da|denn|und|oder|passt|es|porque|ya|y|o|est|parce|et|ou|è|perché|e|é|pois|или|и|потому|не|karena|vì|adalah"
    r"|là|değil)\b(?!-)",
    re.IGNORECASE,
)
_LETTER_NEXT = re.compile(r"\s+[A-Z](?![^\W_])")
"""Letters in a row, as in "A B C", are all named."""
_AFTER_TEXT = re.compile(
    r"[^\S\n]*\n|\s+-\s|\s*(?:\Z|[^\w\s'-]|[\uf000\uf001])|\s+(?:is|was|are|were|as|because|since|which|would|could|should|must|can|may|might|seems?|looks?"
    r"|appears?|and|or|but|not|based|due|given|rather|instead|than|ist|es|est|è|é|weil|porque|oder|und|o|y|ou|et)\b"
    r"|\s*(?:的|了|吧|呢|です|だ|でしょう|になり|が正|입니다|이다|이에요|예요|이|가|은|는|색|ではな|じゃな|または|或|和|及|と|是|不)",
    re.IGNORECASE,
)
_SENTENCE_ENDS = re.compile(
    r"\s*(?:\Z|[.!?;,\n:)\]\"}]|的?\s*(?:[.!,]|\Z)|です|입니다|だ[.\s]|\s(?:because|since|as|weil|porque|based|due|rather|instead|not)\b)"
)
_LEAD = re.compile(r"[\s(\[{\"'<>=:.\uf000-]*\Z")
_LINE_END = re.compile(r"[\s)\]}\"'.,;:!?>=\uf001-]*")
_NOT_A_CHOICE = re.compile(
    r"\b(?:vitamin|hepatitis|type|grade|plan|phase|stage|vitamins|triangle|angle|side|segment|line|point|axis|mr|mrs|dr|st)\.?\s*\Z",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|never|no(?!\s*[,.:;!-])|none|neither|nor|without|cannot|nicht|kein\w*|pas|non|não|не)\b|n't\b"
    r"|不|没|非|ない|않|아니|ليس|لا ",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Mention:
    """A choice that a text names: from where to where, by its text or its letter, and what follows."""

    letter: str
    start: int
    end: int
    by_text: bool
    loose: bool
    """A choice's text that more words follow ("green" in "green apple")."""
    boxed: bool


def choice_letter(text: str, choices: Sequence[str] | None) -> tuple[str | None, str]:
    """The letter an answer chooses, "A" for the first choice, or None and why. Without `choices` any letter is valid.

    The whole text may be a letter or a choice's text, in any case. Else what the text states counts: a box, "the answer is B",
    "B is correct", "选B", a line that is nothing else, a text that begins so ("B, because ..."); without any such statement
    "option B", then what is named at all. What is stated must be one choice, and not one that the text denies.
    """
    if len(text) > phrases.MAX_READ_CHARS:
        return None, phrases.OVER_LENGTH
    if not text.isascii():
        text = _PRIVATE.sub(" ", normalised(text))
    names = tuple(choices or ())
    valid = LETTERS[: len(names)] if names else LETTERS
    whole = _whole(text, names, valid)
    if whole is not None:
        return whole, ""
    masked = phrases.one_spaced(_cleaned(_masked(text, names)))
    replaced = phrases.last_replacement(masked)
    if replaced is not None and next(_mentions(masked[: replaced.start()], valid), None) is not None:
        later = _read(masked[replaced.end() :].lstrip(" \t\r\n,.:;!-"), valid)
        if later.is_stated:
            return later.letter, later.why
    found = _read(masked, valid)
    return found.letter, found.why


@dataclass(frozen=True, slots=True)
class _Reading:
    letter: str | None
    why: str
    is_stated: bool = False


def _whole(text: str, names: tuple[str, ...], valid: str) -> str | None:
    """The choice whose letter or text the whole answer is, or its letter followed by its text."""
    bare = text.strip(" \t\r\n*`\"'.,:;!()[]{}<>$_")
    if len(bare) == 1 and bare.isascii() and bare.upper() in valid:
        return bare.upper()
    if not names or len(text) > 4_000:
        return None
    forms = {canon(text), canon(text.strip(" \t\r\n*`\"'.,;!$_")), canon(bare)} - {""}
    same = [letter for letter, name in zip(LETTERS, names, strict=False) if canon(name) in forms or _trimmed(name) in forms]
    if len(same) == 1:
        return same[0]
    value = number(bare)
    if value is not None and not same:
        same = [letter for letter, name in zip(LETTERS, names, strict=False) if number(name) == value]
        return same[0] if len(same) == 1 else None
    rest = _DELIMITERS.sub("", bare[1:]) if bare[:1].upper() in valid and not bare[1:2].isalnum() else ""
    if rest and _trimmed(names[LETTERS.index(bare[0].upper())]) == _trimmed(rest) and not _article(bare, rest, names):
        return bare[0].upper()
    return None


_DELIMITERS = re.compile(r"\A[\s*`\"'.,:;!()\[\]{}<>=_]*(?:-(?=\D)[\s*`\"'.,:;!()\[\]{}<>=_]*)?")


def _article(bare: str, rest: str, names: tuple[str, ...]) -> bool:
    """Whether "a red" may mean another choice: one whose own text begins with the letter."""
    return sum(_trimmed(name) in (_trimmed(bare), _trimmed(rest)) for name in names) > 1


@lru_cache(maxsize=4096)
def _trimmed(text: str) -> str:
    return canon(text).strip(" .,;:!?\"'`*$").strip()


# ---- finding what a text names

_GRAMMAR = frozenset(
    re.findall(
        r"\S+",
        """a an the is are was were be been it its he she they we you i of to in on at by for with from as and or but not answer
        option choice correct right wrong this that which who what where when do does did has have had will would can could may
        might must should so 是 为 为什么 的 选 对 了 在 有 は が の です 이 가 은 는""",
    )
)
"""Choices that are words of grammar are only read where they are the whole answer or the whole statement."""


@lru_cache(maxsize=512)
def _pattern(names: tuple[str, ...]) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    """What finds the choices' texts, longest first, and the character that stands for each."""
    stands: dict[str, str] = {}
    twice: set[str] = set()
    for at, name in enumerate(names[: len(LETTERS)]):
        key = _trimmed(name)
        if key in stands:
            twice.add(key)
        if key and key not in _GRAMMAR and not (len(key) == 1 and key.isascii() and key.isalpha()):
            stands[key] = chr(_FIRST + at)
    stands = {key: stand for key, stand in stands.items() if key not in twice}
    if not stands:
        return None, {}
    parts = []
    for key in sorted(stands, key=len, reverse=True):
        words = r"[\s_]+".join(map(re.escape, key.split()))
        lead = rf"(?<!{_LATIN})(?<!\d[.,])(?<!(?<!\w)-)" if _is_ascii_word(key[0]) else ""
        tail = rf"(?!{_LATIN})(?![.,]\d)" if _is_ascii_word(key[-1]) else ""
        tail += r"(?!\s?%)" if key[-1].isdecimal() else ""
        parts.append(f"{lead}{words}{tail}")
    return re.compile("|".join(parts), re.IGNORECASE), stands


def _is_ascii_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


def _masked(text: str, names: tuple[str, ...]) -> str:
    """The text with one private character for each choice's text, so that its words are no letters, denials or statements."""
    pattern, stands = _pattern(names)
    if pattern is None:
        return text
    return pattern.sub(lambda found: stands.get(_trimmed(found[0]), found[0]), text)


def _cleaned(text: str) -> str:
    """Without emphasis, dollar signs and the wrappers of LaTeX; boxes as one character before and behind."""
    if "\\" in text:
        for _ in range(2):
            text = _WRAPPER.sub(r" \1 ", text)
        text = _BOX.sub(f"{_BOX_OPEN}\\1{_BOX_CLOSE}", text)
    return _MARKS.sub(" ", text)


def _mentions(text: str, valid: str) -> Iterator[_Mention]:
    has_boxes = _BOX_OPEN in text
    for found in _MENTION.finditer(text):
        start, end = found.span()
        at_box = text.rfind(_BOX_OPEN, max(0, start - 400), start) if has_boxes else -1
        boxed = at_box >= 0 and text.find(_BOX_CLOSE, at_box, start) < 0
        if found["text"]:
            loose = _AFTER_TEXT.match(text, end) is None
            yield _Mention(LETTERS[ord(found[0]) - _FIRST], start, end, True, loose, boxed)
        elif found["upper"]:
            is_letter = _FOLLOWS.match(text, end) or _LETTER_NEXT.match(text, end)
            if is_letter and not _NOT_A_CHOICE.search(text, max(0, start - 16), start):
                yield _Mention(found[0], start, end, False, False, boxed)
        elif boxed or _is_small_letter(text, start, end):
            yield _Mention(found[0].upper(), start, end, False, False, boxed)


def _is_small_letter(text: str, start: int, end: int) -> bool:
    """Whether a small letter is a choice's: in brackets, first with a mark behind, or last behind "answer:" and the like."""
    ahead, rest = text[max(0, start - 2) : start], text[end : end + 2].lstrip(" ")
    if ahead[-1:] in ("(", "[", "{") and rest[:1] in (")", "]", "}"):
        return True
    if start <= 8 and _LEAD.match(text[:start]):
        before_text = text[start] != "a" and "\ue000" <= rest[:1] <= "\ue019"  # "a green" is no letter
        if before_text or rest[:1] in (")", "]", ".", ":", "-"):
            return True
    stops = rest[:1] in ("", ".", ")", "]", "}", '"', "'", "\n", ",", "!", ";") and text[end : end + 1] != " "
    if not stops:
        return False
    window = phrases.before(text, start)
    return phrases.linked(window) or phrases.numbered(window)


# ---- what a text asserts


_ASSERTED = ("stated", "line", "numbered", "named", "worded")
_KINDS = ("stated", "line", "numbered", "named", "worded", "loose", "doubtful", "denied")
"""Named as the answer; alone on its line, in its sentence or at the start; "option B"; a letter somewhere; a choice's text that
ends a sentence; one that more words follow; beside a word that may deny it; denied."""


def _read(text: str, valid: str) -> _Reading:
    mentions = []
    for mention in _mentions(text, valid):
        mentions.append(mention)
        if len(mentions) > MAX_MENTIONS:
            return _Reading(None, f"names choices more than {MAX_MENTIONS} times")
    if mentions and _TAKEN_BACK.match(phrases.behind(text, mentions[-1].end)):
        return _Reading(None, "takes its answer back")
    found: dict[str, set[str]] = {kind: set() for kind in _KINDS}
    since, kind, letters = 0, "", set[str]()
    joined: list[tuple[str, set[str]]] = []
    for chain in _chains(text, mentions):
        former, kind = kind, _kind(text, chain, since)
        letters = {mention.letter for mention in chain}
        glue = _GLUE.match(text, since, chain[0].start) if joined and "denied" not in (former, kind) else None
        if kind == "also":
            kind = former if former in _ASSERTED else "named"
        if glue is not None and glue.end() == chain[0].start:  # as much of an answer as what stands before
            kind = min(kind, joined[-1][0], key=_KINDS.index)
            joined[-1] = (kind, joined[-1][1] | letters)
        else:
            joined.append((kind, letters))
        since = chain[-1].end
    for group, some in joined:
        if group != "named" or some.intersection(valid):
            found[group] |= some
    kind, letters = joined[-1] if joined else ("", letters)
    if not found["stated"] or len(found["line"]) == 1:
        found["stated"] |= found["line"]
    elif kind == "line":  # choices listed on lines of their own, then a statement: the last line counts
        found["stated"] |= letters
    if not found["named"] and found["worded"]:  # a choice's words in a sentence count where no other choice's do
        found["named"] = found["worded"] | found["loose"]
    for kind in ("stated", "numbered", "named"):
        if found[kind]:
            letter, why = _only(found[kind], found["denied"], valid)
            return _Reading(letter, why, kind == "stated")
    return _Reading(None, "only says what it is not" if found["denied"] else "no choice in the answer")


def _only(letters: set[str], denied: set[str], valid: str) -> tuple[str | None, str]:
    if len(letters) > 1:
        return None, f"not one choice: {', '.join(sorted(letters))}"
    letter = next(iter(letters))
    if letter not in valid:
        return None, f"{letter} is no choice"
    return (None, f"both states and denies {letter}") if letter in denied else (letter, "")


def _chains(text: str, mentions: Sequence[_Mention]) -> list[list[_Mention]]:
    """Mentions with nothing but separators between them: a letter and its text, or a list."""
    chains: list[list[_Mention]] = []
    for mention in mentions:
        last = chains[-1][-1] if chains else None
        if last is not None and mention.start - last.end <= 40:
            between = _SEPARATOR.match(text, last.end, mention.start)
            if between is not None and between.end() == mention.start and not _is_apart(text, last, mention):
                chains[-1].append(mention)
                continue
        chains.append([mention])
    return chains


_TAKEN_BACK = re.compile(
    r"[\s.,;:!?)\]}\"'-]*(?:oh|hm{1,6}|but|well|so)?[\s,]*(?:wait\b|scratch\s+that|strike\s+that|my\s+mistake|不对|不對|错了|錯了|いや"
    r"|(?:actually|sorry)[\s,]*(?:no\b|not\b|that(?:'s|\s+is)\s+(?:wrong|incorrect|not)))",
    re.IGNORECASE,
)
_OR = re.compile(
    r"[\s,.;:)\]}\"'\uf001]*(?:\b(?:or|unless|vs|versus|alternatively|otherwise|else|another|oder|ou|или)\b|或|还是|または|또는|혹은|أو)",
    re.IGNORECASE,
)
"""What makes a second choice as much of an answer as the first."""
_GLUE = re.compile(
    r"(?:[^\w\n]|\b(?:or|and|also|but|maybe|perhaps|possibly|then|plus|next|not|sure|if|as|much|well|respectively|rather|else|otherwise"
    r"|it|is|s|could|be|might|may|too|another|second|third|choice|guess|my|alternatively|unless|vs|versus|either|followed|by|the|answer"
    r"|equally|likely|to|even|still)\b|也|可能|是|或|者|和|还|与|及|另|外|其次|または|と|や|또는){0,24}"
)
"""What joins two choices into one answer of two, and says nothing of either."""
_NEW_SENTENCE = re.compile(r"[.!?]\s+\Z|\n")
_NEW_CLAUSE = re.compile(r",\s*(?:是|而是|is\b)")

_ALTERNATIVE = re.compile(
    r"\b(?:or|and|either|maybe|perhaps|possibly|oder|und|o|u|y|ou|et|или|и)\b|[/&]|或|和|还是|または|か|또는|혹은|أو",
    re.IGNORECASE,
)


def _is_apart(text: str, last: _Mention, mention: _Mention) -> bool:
    """Whether two mentions stand in sentences, clauses or lines of their own; a letter's text may follow its full stop."""
    between = text[last.end : mention.start]
    is_next = last.by_text and not mention.by_text and last.letter != mention.letter  # "it is green, as A and C are wrong"
    if _NEW_CLAUSE.match(between) or (is_next and re.search("[,;]", between) and not _ALTERNATIVE.search(between)):
        return True
    return not (mention.by_text and not last.by_text) and _NEW_SENTENCE.search(between) is not None


def _kind(text: str, chain: Sequence[_Mention], since: int) -> str:
    """How a chain is meant: one of `_KINDS`, or "also" behind an "or"."""
    first, last = chain[0], chain[-1]
    ahead, rest = phrases.before(text, first.start, since), phrases.behind(text, last.end)
    if phrases.denied_before(ahead) or phrases.denied_behind(rest):
        return "denied"
    if any(mention.boxed for mention in chain):
        return "stated"
    is_one = len({mention.letter for mention in chain}) == 1
    if last.loose and is_one and first.by_text:
        return "loose"
    line_start = max(text.rfind("\n", max(0, first.start - 40), first.start) + 1, 0 if first.start <= 40 else first.start - 40)
    leads = _LEAD.match(text, line_start, first.start) is not None and (line_start == 0 or text[line_start - 1] == "\n")
    line_ends = _LINE_END.match(text, last.end)
    is_end = line_ends is None or line_ends.end() == len(text) or "\n" in text[last.end : line_ends.end()]
    if leads and is_end:
        return "line"
    ends = _SENTENCE_ENDS.match(text, last.end) is not None
    if phrases.stated(ahead, rest, ends):
        return "stated"
    opens = leads and line_start == 0
    if opens and (last.loose or _leading(text, chain)):  # "B (the green one)": a letter and its text, with more words
        return "line"
    if ends and _LEAD.match(ahead.lstrip(" ,;")):
        return "line"
    if since and _OR.match(text, since, first.start):
        return "also"
    if phrases.numbered(ahead):
        return "numbered"
    if _DENIAL.search(ahead):
        return "doubtful"
    if all(mention.by_text for mention in chain):
        return "worded" if ends or leads else "loose"
    return "named"


def _leading(text: str, chain: Sequence[_Mention]) -> bool:
    """Whether a text that begins with this chain answers so: a mark follows, or "because" and the like."""
    last = chain[-1]
    return _SENTENCE_ENDS.match(text, last.end) is not None or (
        len(chain) == 1 and not last.by_text and _DELIMITER.match(text, last.end) is not None
    )


def reference_letters(sample: Sample) -> set[str]:
    """The letters of the right choices, given as letters or as full texts."""
    choices = sample.choices or ()
    valid = LETTERS[: len(choices)] if choices else LETTERS
    found = set()
    for reference in reference_texts(sample):
        text = reference.strip()
        same = [letter for letter, choice in zip(LETTERS, choices, strict=False) if canon(choice) == canon(reference)]
        if len(text) == 1 and text.upper() in valid:
            found.add(text.upper())
        elif len(same) == 1:
            found.add(same[0])
    return found
