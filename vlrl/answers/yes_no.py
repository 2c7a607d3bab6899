"""From the text of an answer to "yes" or "no", or None with a reason, in the languages in which models answer."""

from __future__ import annotations

import re

from vlrl.answers import phrases
from vlrl.answers.markup import signs_as_words, without_assurance, without_markup
from vlrl.answers.normalise import normalised
from vlrl.answers.text import reference_texts
from vlrl.schema import Sample

_MAX_WORDS = 400
_MARKS = re.compile(r"[*`#$]+|\\(?:boxed|text|textbf|mathrm)(?=\s?\{)")
_WORD = re.compile(
    r"(?<![^\W_])(?<![^\W_][-'_])(?:(?P<yes>yes|yeah|yep|yup)|(?P<no>no|nope|nah))(?![^\W_])(?![-'_][^\W_])"
    r"(?!\s+(?:doubt|idea|clue|answer|comment|information|problem|longer|matter|one\b|way\s+(?:to|of)|more\s+than|less\s+than))",
    re.IGNORECASE,
)
_SEGMENT = re.compile(r"[^\s,.;:!?()\[\]{}\"'*`][^,.;:!?()\[\]{}\"*`\n]{0,40}")
_OTHER = {
    "yes": """是 是的 对 对的 正确 没错 有 有的 会 能 可以 はい ええ そうです 예 네 맞습니다
    ja sí oui sim sì da да نعم evet हाँ हां vâng có ใช่""",
    "no": """否 不 不是 不是的 没有 沒有 没 不对 不對 错误 不会 不能 不可以 いいえ ちがいます 違います
    아니요 아니오 아닙니다 nein non não нет لا كلا hayır नहीं tidak bukan không ไม่ ไม่ใช่""",
}
_WORDS = {word: key for key, words in _OTHER.items() for word in words.split()}
_LEAD_IN = re.compile(
    r".{0,12}(?:答案|回答|答え|정답|답|respuesta|réponse|resposta|risposta|antwort|ответ|الإجابة|الجواب)"
    r"\s*(?:是|为|為|は|은|는|est|ist|es|é|è|lautet|هي|هو)?\s*",
    re.IGNORECASE,
)
_TAIL = re.compile(r"(?:です|입니다|的|。)?\Z")


def yes_or_no(text: str) -> tuple[str | None, str]:
    """ "yes" or "no", whichever of the two the text asserts; both or neither: None and why.

    English words count wherever they stand whole ("no" not in "no doubt", "no idea"), those of other languages as a clause
    ("是的，有一只狗", "La respuesta es no"). Denied words are not asserted ("not yes", "yes is wrong"), and an earlier one
    counts no more where the text says that it replaces it ("Yes. Wait, no").
    """
    if len(text) > phrases.MAX_READ_CHARS:
        return None, phrases.OVER_LENGTH
    text = signs_as_words(without_assurance(without_markup(normalised(text))))
    text = phrases.one_spaced(_MARKS.sub(" ", text))
    replaced = phrases.last_replacement(_WORD.sub(lambda word: "_" * len(word[0]), text))
    if replaced is not None and _found(text[: replaced.start()]):
        later = _found(text[replaced.end() :])
        if later:
            return _one(later)
        if replaced[0].strip(" ,.:;!?-(\n").casefold().startswith(("wait", "scratch", "strike", "不对", "错了")):
            return None, "takes its answer back"
    return _one(_found(text))


def _one(found: set[str]) -> tuple[str | None, str]:
    asserted = found - {"denied"}
    if "denied" in found:
        return None, "denies yes or no"
    if len(asserted) == 1:
        return asserted.pop(), ""
    return None, "yes and no" if asserted else "neither yes nor no"


def _found(text: str) -> set[str]:
    """The words a text asserts; "denied" where it denies one."""
    found: set[str] = set()
    words = list(_WORD.finditer(text))
    for n_seen, word in enumerate(words):
        if n_seen >= _MAX_WORDS or len(found) > 1:
            break
        since = words[n_seen - 1].end() if n_seen else 0
        key = "yes" if word["yes"] else "no"
        if key == "no" and found == {"yes"} and _LEADING_YES.match(text) and _CONTRASTED.match(text, word.start()):
            continue
        ahead, rest = phrases.before(text, word.start(), since), phrases.behind(text, word.end())
        if phrases.denied_before(ahead) or (key == "yes" and phrases.denied_behind(rest)) or _is_wrong(rest):
            found.add("denied")
        else:
            found.add(key)
    return found | _other_words(text)


_LEADING_YES = re.compile(r"\s*yes\s?[.!]\s", re.IGNORECASE)
_CONTRASTED = re.compile(r"no [a-z]+[^.!?\n]{0,60}?\b(?:but|though|only|just|while|however)\b", re.IGNORECASE)
"""A "no" of an explanation ("Yes. There are no cars but there is a dog"); without the contrast it may be the answer."""
_WRONG = re.compile(r"\s*(?:is|would\s+be|was)\s+(?:the\s+)?(?:wrong|incorrect|false|not\b)", re.IGNORECASE)


def _is_wrong(rest: str) -> bool:
    return _WRONG.match(rest) is not None


def _other_words(text: str) -> set[str]:
    """The words of other languages that are a whole clause, or all that follows "the answer is"."""
    found = set()
    for n_seen, segment in enumerate(_SEGMENT.finditer(text)):
        if n_seen >= _MAX_WORDS:
            break
        clause = segment[0].strip().casefold()
        lead = _LEAD_IN.match(clause)
        rest = clause[lead.end() :] if lead and lead.end() < len(clause) else ""
        for form in (clause, rest):
            key = _WORDS.get(form) or _WORDS.get(_TAIL.sub("", form))
            if key is not None:
                found.add(key)
                break
    return found


def reference_yes_no(sample: Sample) -> str | None:
    """The right word of a yes/no question; None where its answer is neither, or both are given."""
    words = {yes_or_no(reference)[0] for reference in reference_texts(sample)}
    return words.pop() if len(words) == 1 else None
