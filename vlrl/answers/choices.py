"""From the text of an answer to the letter of a choice, or None with a reason.

A text is read as a set of choices that it asserts, by letter or by a choice's text. A denied one is not asserted ("not B"),
several different ones are no answer, and an earlier one counts no more only where the text says that it replaces it. All
letters are alike: one counts where no word can stand (`A.`, `(A)`, `A is right`, `A red` for the choice "red"), and not behind
words that are not known to leave it as it is ("todo menos C") unless the text states it.
differs from VLMEvalKit and lmms-eval, which take the first or the last letter that they find, or draw one at random.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlrl.answers import phrases
from vlrl.answers.choice_names import (
    AHEAD_MARKS,
    PRIVATE_USE,
    ChoiceMention,
    choice_mentions,
    choices_masked,
    trimmed_choice,
    without_article,
    without_wrappers,
)
from vlrl.answers.markup import signs_as_words, without_assurance, without_markup
from vlrl.answers.normalise import normalised
from vlrl.answers.span import canon
from vlrl.answers.text import LETTERS, measure_form, number

MAX_MENTIONS = 400
"""A text that names choices more often is no answer."""

_SEPARATOR = re.compile(
    r"(?:[\s.,:;()\[\]{}\"'/&+>=\uf000\uf001-]|\b(?:is|means|which|i\.e|namely|the|a|an|option|choice|or|and|either|as|well|even|maybe"
    r"|possibly|perhaps|oder|und|ist|o|u|y|es|ou|et|est|e|è|é|или|и)\b"
    r"|对应|对应的是|选项|即|是|为|和|或者|还是|或|与|及|以及|か|または|と|は|や|또는|혹은|와|과|أو|و){0,8}"
)
_DELIMITER = re.compile(r"\s*(?:[.:)\],、-]|\Z)")
_SENTENCE_ENDS = re.compile(
    r"\s*(?:\Z|[.!?;,\n:)\]\"}]|的?\s*(?:[.!,]|\Z)|です|입니다|だ[.\s]|\s(?:because|since|as|weil|porque|based|due|rather|instead|not)\b"
    r"|\s+in\s+(?:the|this)\s+(?:image|picture|photo|scene|figure)\s*(?:[.,!]|\Z))"
)
_LINE_END = re.compile(r"[\s)\]}\"'.,;:!?>=\uf001-]*")
_DENIAL = re.compile(
    r"\b(?:not|never|no(?!\s*[,.:;!-])|none|neither|nor|without|cannot|nicht|kein\w*|pas|non|não|не)\b|n't\b"
    r"|不|没|非|ない|않|아니|ليس|لا ",
    re.IGNORECASE,
)


def choice_letter(text: str, choices: Sequence[str] | None) -> tuple[str | None, str]:
    """The letter an answer chooses, "A" for the first choice, or None and why. Without `choices` any letter is valid.

    The whole text may be a letter or a choice's text, in any case. Else what the text states counts: a box, "the answer is B",
    "B is correct", "选B", a line that is nothing else, a text that begins so ("B, because ..."); without any such statement
    "option B", then what is named at all. What is stated must be one choice, and not one that the text denies.
    """
    if len(text) > phrases.MAX_READ_CHARS:
        return None, phrases.OVER_LENGTH
    if not text.isascii():
        text = _in_latin(text)
        text = PRIVATE_USE.sub(" ", normalised(text))
    text = without_markup(text)
    names = tuple(choices or ())
    valid = LETTERS[: len(names)] if names else LETTERS
    is_negated = text.lstrip().startswith("!") and not text.rstrip().endswith("!")
    whole = None if is_negated else _whole(text, names, valid)
    if whole is not None:
        return whole, ""
    masked = without_wrappers(signs_as_words(without_assurance(choices_masked(text, names))))
    masked = phrases.one_spaced(masked)
    replaced = phrases.last_replacement(masked)
    if replaced is not None and next(choice_mentions(masked[: replaced.start()], valid), None) is not None:
        later = _read(masked[replaced.end() :].lstrip(" \t\r\n,.:;!-"), valid)
        if later.is_stated:
            return later.letter, later.why
    found = _read(masked, valid)
    return found.letter, found.why


_CYRILLIC = re.compile(r"(?<![^\W_])[АВСЕ](?=[\s.)*»\"]*(?:\Z|\n)|[.):])")
_TO_LATIN = str.maketrans("АВСЕ", "ABCE")


def _in_latin(text: str) -> str:
    """With the Cyrillic letters that look like a choice's as Latin ones where they stand as a letter ("Ответ: С")."""
    return _CYRILLIC.sub(lambda found: found[0].translate(_TO_LATIN), text)


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
    forms |= {form.replace("n't", " not") for form in forms}
    same = [
        letter
        for letter, name in zip(LETTERS, names, strict=False)
        if not forms.isdisjoint((canon(name), trimmed_choice(name), trimmed_choice(name).replace("n't", " not")))
    ]
    if len(same) == 1:
        return same[0]
    measured = _measured(text, names) if not same else None
    if measured is not None:
        return measured
    value = number(bare)
    if value is not None and not same:
        same = [letter for letter, name in zip(LETTERS, names, strict=False) if number(name) == value]
        return same[0] if len(same) == 1 else None
    rest = _DELIMITERS.sub("", bare[1:]) if bare[:1].upper() in valid and not bare[1:2].isalnum() else ""
    own = names[LETTERS.index(bare[0].upper())] if rest else ""
    if rest and trimmed_choice(own) in (trimmed_choice(rest), without_article(rest)) and not _article(bare, rest, names):
        return bare[0].upper()
    return None


_MAGNITUDES = frozenset(re.findall(r"\S+", "hundred thousand million billion trillion dozen percent k m b mio mrd"))


def _measured(text: str, names: tuple[str, ...]) -> str | None:
    """The one choice with this number and unit; the unit may be left out where all choices have the same, or be a noun that
    the choices leave out."""
    amount, unit = measure_form(text)
    if not amount or unit.casefold() in _MAGNITUDES:
        return None
    shown = [measure_form(name) for name in names[: len(LETTERS)]]
    units = {one[1] for one in shown}
    alike = [LETTERS[at] for at, one in enumerate(shown) if one == (amount, unit)]
    if not alike and len(units) == 1 and ("" in units) != (unit == ""):
        alike = [LETTERS[at] for at, one in enumerate(shown) if one[0] == amount]
    return alike[0] if len(alike) == 1 else None


_DELIMITERS = re.compile(r"\A[\s*`\"'.,:;!()\[\]{}<>=_]*(?:-(?=\D)[\s*`\"'.,:;!()\[\]{}<>=_]*)?")


def _article(bare: str, rest: str, names: tuple[str, ...]) -> bool:
    """Whether "a red" may mean another choice: one whose own text begins with the letter."""
    return sum(trimmed_choice(name) in (trimmed_choice(bare), trimmed_choice(rest)) for name in names) > 1


# ---- what a text asserts


_ASSERTED = ("stated", "line", "numbered", "named", "worded")
_KINDS = ("stated", "line", "numbered", "named", "worded", "loose", "doubtful", "denied")
"""Named as the answer; alone on its line, in its sentence or at the start; "option B"; a letter somewhere; a choice's text that
ends a sentence; one that more words follow; beside a word that may deny it; denied."""


def _read(text: str, valid: str) -> _Reading:
    mentions = []
    for mention in choice_mentions(text, valid):
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
        if _is_rival(text, chain, since, joined, kind):
            kind = joined[-1][0]
            joined[-1] = (kind, joined[-1][1] | letters)
        elif glue is not None and glue.end() == chain[0].start:  # as much of an answer as what stands before
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


_LIMIT = re.compile(
    r"(?:\b(?:at\s+(?:least|most)|(?:more|less|fewer|greater|smaller|larger|higher|lower)\s+than|up\s+to|mehr\s+als|weniger\s+als"
    r"|mindestens|höchstens|más\s+de|menos\s+de|al\s+menos|plus\s+de|moins\s+de|au\s+moins|pelo\s+menos)|[<>≥≤]|\\[gl]eq?"
    r"|至少|最多|超过|不到|少于|大于|小于|多于)\s*\Z",
    re.IGNORECASE,
)
"""What makes a choice a limit: "at least 15" is not 15."""
_FEW_WORDS = re.compile(r"[\s,;:(\[-]*(?:[^\W\d_]{1,16}[\s,:]{1,3}){1,3}")


def _is_rival(text: str, chain: Sequence[ChoiceMention], since: int, joined: list[tuple[str, set[str]]], kind: str) -> bool:
    """Whether a letter at the end of a sentence stands beside the answer as another one, whatever few words join them
    ("C, vielleicht A")."""
    if not joined or joined[-1][0] not in ("stated", "line") or kind not in ("named", "doubtful"):
        return False
    if any(one.by_text for one in chain):
        return False
    words = _FEW_WORDS.match(text, since, chain[0].start)
    return words is not None and words.end() == chain[0].start and _SENTENCE_ENDS.match(text, chain[-1].end) is not None


def _only(letters: set[str], denied: set[str], valid: str) -> tuple[str | None, str]:
    if len(letters) > 1:
        return None, f"not one choice: {', '.join(sorted(letters))}"
    letter = next(iter(letters))
    if letter not in valid:
        return None, f"{letter} is no choice"
    return (None, f"both states and denies {letter}") if letter in denied else (letter, "")


def _chains(text: str, mentions: Sequence[ChoiceMention]) -> list[list[ChoiceMention]]:
    """Mentions with nothing but separators between them: a letter and its text, or a list."""
    chains: list[list[ChoiceMention]] = []
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


def _is_apart(text: str, last: ChoiceMention, mention: ChoiceMention) -> bool:
    """Whether two mentions stand in sentences, clauses or lines of their own; a letter's text may follow its full stop."""
    between = text[last.end : mention.start]
    is_next = last.by_text and not mention.by_text and last.letter != mention.letter  # "it is green, as A and C are wrong"
    if _NEW_CLAUSE.match(between) or (is_next and re.search("[,;]", between) and not _ALTERNATIVE.search(between)):
        return True
    return not (mention.by_text and not last.by_text) and _NEW_SENTENCE.search(between) is not None


def _kind(text: str, chain: Sequence[ChoiceMention], since: int) -> str:
    """How a chain is meant: one of `_KINDS`, or "also" behind an "or"."""
    first, last = chain[0], chain[-1]
    ahead, rest = phrases.before(text, first.start, since), phrases.behind(text, last.end)
    if first.by_text and _LIMIT.search(ahead):
        return "denied"
    if phrases.denied_before(ahead) or phrases.denied_behind(rest):
        return "denied"
    if any(mention.boxed for mention in chain):
        return "stated"
    is_one = len({mention.letter for mention in chain}) == 1
    if last.loose and is_one and first.by_text:
        return "loose"
    line_start = max(text.rfind("\n", max(0, first.start - 40), first.start) + 1, 0 if first.start <= 40 else first.start - 40)
    leads = AHEAD_MARKS.match(text, line_start, first.start) is not None and (line_start == 0 or text[line_start - 1] == "\n")
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
    if ends and AHEAD_MARKS.match(ahead.lstrip(" ,;")):
        return "line"
    if since and _OR.match(text, since, first.start):
        return "also"
    if phrases.numbered(ahead):
        return "numbered"
    if _DENIAL.search(ahead) or (not last.by_text and not _is_plain(ahead, rest)):
        return "doubtful"
    if all(mention.by_text for mention in chain):
        return "worded" if ends or leads else "loose"
    return "named"


_PLAIN_WORDS = frozenset(
    re.findall(
        r"\S+",
        """i i'd i'm i'll we you it its it's that that's this these there here the a an my our your of to for with by on in
        at and or so but then as is are was be been would could should must can may might will do does did has
        have think believe say see guess know feel conclude choose select pick answer ans option choice letter
        image picture photo question only just both either also maybe perhaps possibly probably likely clearly
        definitely certainly surely obviously therefore thus hence because since if when while shows best
        correct right final ok okay well now how what which who where than like looks look seems first second
        third between compare comparing most more all creo es la el que opción je pense que c'est la ich glaube
        denke ist die wohl acho que é o я думаю что это правильный ответ letra lettera buchstabe विकल्प""",
    )
)
"""Words that neither deny nor limit what follows. Behind any other word of its clause a letter is not taken for an answer,
unless the text states it: that is how "todo menos C" or "skip C" is unread in every language."""
_PREDICATE = re.compile(r"\s+(?:is|was|es|est|ist|está|é|è|jest|adalah)\s(?!what\s(?:i|we)\s(?:cho|pick|sel|go))", re.I)
"""Behind a letter that is not stated: what it is said to be is not known."""
_STRANGE = re.compile(r"[^\S\n]*(?!选项|選項|[项項]|번)[^\W\d_A-Za-z\u00c0-\u024f\ue000-\uf8ff]")


def _is_plain(ahead: str, rest: str) -> bool:
    """Whether only words that neither deny nor limit stand before a letter in its clause, none of another script behind."""
    clause = re.split(r"[,.:;!?()\n\"]", ahead)[-1]
    return all(word in _PLAIN_WORDS or not word[0].isalpha() for word in clause.casefold().split()) and not (
        _STRANGE.match(rest) or _PREDICATE.match(rest)
    )


def _leading(text: str, chain: Sequence[ChoiceMention]) -> bool:
    """Whether a text that begins with this chain answers so: a mark follows, or "because" and the like."""
    last = chain[-1]
    return _SENTENCE_ENDS.match(text, last.end) is not None or (
        len(chain) == 1 and not last.by_text and _DELIMITER.match(text, last.end) is not None
    )
