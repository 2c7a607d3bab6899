"""Words beside boxes that speak against them: a statement that they are not there, a negation, an alternative, a retraction
("Wait, that is wrong."). In English, and by their plain words in the other languages that `vlrl.answers.nones` reads.

Not here: texts without boxes (`vlrl.answers.nones`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from vlrl.answers.box_items import Frame, requested, roles_of
from vlrl.answers.corners import plain
from vlrl.answers.literals import BareWord
from vlrl.answers.nones import ALL, MAX_STATEMENT_CHARS, SENTENCE, STATEMENT_MARKS, what_is_denied
from vlrl.answers.span import canon

MAX_MESSAGE_CHARS = 1000
_PLAIN_NO = frozenset(["no", "nope", "false", "wrong", "incorrect", "none", "nothing", "not found"])
_FIRST_WORDS = re.compile(r"\A(?:or|otherwise|else|and|but|so|hmm|well|oder|或者?|还是),? ")


def takes_back(text: str, frame: Frame, labels: Collection[str | None]) -> bool:
    """Whether a text beside boxes of these labels says that they are not there ("None", "no dog", "No.")."""
    own = {canon(label) for label in labels if label is not None} | {ALL}
    text = _without_expression(text, frame)
    for sentence in SENTENCE.split(text):
        for part in (sentence, *re.split(r"[,，:：]", sentence)):
            names = _taken_back(part, frame)
            if names is not None and names & own:
                return True
            if names is not None and part is sentence:
                break
    return False


def _without_expression(text: str, frame: Frame) -> str:
    """The text with "it" for the words of the one thing that was asked for, which may hold a negation of their own."""
    expression = canon(frame.expression)
    return canon_lines(text).replace(expression, "it") if len(expression) > 1 else text


def canon_lines(text: str) -> str:
    """The canonical form of each line of a text."""
    return "\n".join(map(canon, text.splitlines()))


def _taken_back(part: str, frame: Frame) -> set[str] | None:
    if len(part) > MAX_STATEMENT_CHARS:
        return None
    part = _FIRST_WORDS.sub("", canon(part).strip(STATEMENT_MARKS))
    return {ALL} if part in _PLAIN_NO else what_is_denied(part, frame, loosely=True) if part else None


_NEGATION = re.compile(
    r"\b(?:not|no|non|never|neither|nor|without|except|nope|wrong|incorrect|false|cannot|instead of|rather than|anything but"
    r"|absent|missing|nicht|kein\w*|pas|aucune?|ning[uú]n\w*|nunca|jamais|não|nenhum\w*|nessun\w*|niet|geen|inte|ingen|ikke"
    r"|ei ole|není|nie|değil|yok|tidak|bukan|không|нет|не|ليس\w*|لا|नहीं|δεν|όχι|אין|לא)\b|n't\b"
    r"|不是|并非|没有|沒有|不在|不对|不對|错误|除了|不存在|ではな|じゃな|ありません|いません|いない|존재하지|아니|아닙|없|ไม่"
)
_HARMLESS = re.compile(r"\b(?:no (?:other|others|more|further|additional)|not only|not just|no doubt)\b")
_OTHERWISE = re.compile(r"\b(?:or|otherwise|alternatively|either|oder|ou|versus|vs)\b|或|还是|または|もしくは")
_CLAUSE_END = re.compile(r"[.!?。！？\r\n]")
_SUBJECT = (
    r"(?:that|this|it|these|those|they|which"
    r"|(?:the|my) (?:above|box(?:es)?|bounding box(?:es)?|answers?|coordinates?|list|result))"
)
_RETRACTION = re.compile(
    rf"\b{_SUBJECT}(?: (?:above|answer|box(?:es)?|one|ones))? (?:is|are|was|were|seems?|looks?)(?: (?:all|also|actually|clearly"
    r"|definitely|completely|probably|really|just|both|to be))* (?:wrong|incorrect|false|invalid|mistaken|errors?"
    r"|(?:an? )?(?:mistakes?|error|guess)|nonsense|inaccurate|(?:not|never) (?:the|an?|any|correct|right|there|here|present|it"
    r"|what|accurate|my|your|valid|true|so|in|no|actually|really|where)\b|not\Z)"
    rf"|\b(?:that|this|it|these|those|they)(?: (?:is|are|was|were)n't|'s not|'s (?:wrong|incorrect|a mistake|an error))\b"
    r"|\b(?:ignore|disregard|discard|forget|scratch|delete) (?:it|that|this|them|these|those|the|my|all)\b"
    r"|\bi (?:made an? (?:mistake|error)|was wrong|am wrong|take (?:it|that|this|them) back)\b"
    r"|(?:^|[.!?,;]\s*)(?:but |oh,? |wait,? |sorry,? |hmm,? )*(?:wrong|incorrect|not (?:correct|right|true)|just kidding)\b"
    r"|(?:^|[.!?]\s*)(?:wait|oops|no wait|correction)\b(?! a)"
    r"|\b(?:falsch|fehler|irrtum|stimmt nicht|incorrect[oa]s?|equivocad[oa]s?|erróne[oa]s?|no es (?:el|la|un)"
    r"|faux|fausses?|incorrecte?s?"
    r"|erreur|n'est pas|ce n'est|sbagliat[oaie]|errat[oaie]|non è|errad[oa]s?|incorret[oa]s?|não é|неправильно"
    r"|неверно|ошибка|ошибся"
    r"|это не|verkeerd|onjuist|yanlış|salah|خطأ|خاطئ|غلط|ليس|गलत|błędn\w+|źle|fel|väärin|λάθος|טעות|sai rồi|chybn\w+|špatně)\b"
    r"|错了|错误|不对|不對|搞错|弄错|更正|有误|不正确|(?:这|那|它)(?:并)?(?:不是|没有)|間違|違います|誤り|ではありません|ではない"
    r"|아닙니다|아니다|틀렸|잘못|ผิด"
)


def doubt(before: str, between: str, after: str, frame: Frame, labels: Collection[str | None]) -> str | None:
    """What the words around boxes say against them, or None: a statement that they are not there, a negation in the clause of
    the first or the last box, an alternative between boxes or behind them, a retraction behind them."""
    for text in (before, between, after):
        if takes_back(text[:4000], frame, labels) or takes_back(text[-4000:], frame, labels):
            return "none beside boxes"
    ahead = _CLAUSE_END.split(before[-1000:])[-1]
    behind = _CLAUSE_END.split(after[:1000])[0]
    for clause in (ahead, behind, between[:4000]):
        if _NEGATION.search(_without_names(clause, frame, labels)):
            return f"negated: {' '.join(clause.split())[:60]!r}"
    if _OTHERWISE.search(canon(between[:4000])) or _OTHERWISE.match(canon(behind).lstrip(" ,;")):
        return "one box or another"
    for text in {after[:4000], after[-4000:]}:
        taken_back = _RETRACTION.search(_HARMLESS.sub(" ", _without_expression(canon_lines(text), frame)).strip(" .,;:\n"))
        if taken_back is not None:
            return f"taken back: {taken_back[0][:60]!r}"
    return None


_DENYING = frozenset(["none", "nothing", "null", "nil", "n/a", "no", "absent", "no object", "not found", "not present"])


def denies_label(label: str, frame: Frame) -> bool:
    """Whether a label says that its box is not what was asked for ("not the brown dog", "none")."""
    text, expression = canon(label), canon(frame.expression)
    if text.strip(STATEMENT_MARKS) in _DENYING:
        return True
    text = text.replace(expression, " ") if len(expression) > 1 else text
    found = {match[0] for match in _NEGATION.finditer(text)}
    return bool(found - {match[0] for match in _NEGATION.finditer(expression)})


_FLAGS = frozenset(["present", "ispresent", "found", "isfound", "exists", "exist", "visible", "isvisible", "detected"])
_ABSENCES = frozenset(["absent", "isabsent", "missing", "notfound", "notpresent"])


def is_flag(key: str) -> bool:
    """Whether a key may say that its object is not there."""
    return plain(key) in _FLAGS or plain(key) in _ABSENCES


def doubt_inside(value: Any, frame: Frame, labels: Collection[str | None]) -> str | None:
    """What the members of a value of JSON say against the boxes in it ("found": false, "message": "There is no dog."), or
    None."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, list):
            todo += [member for member in one if isinstance(member, dict | list)]
        if not isinstance(one, dict):
            continue
        roles = roles_of(tuple(one))
        told = {*roles.boxes, *(roles.labels if frame.categories else ())}
        for key, member in one.items():
            if isinstance(member, dict | list):
                todo.append(member)
            elif is_flag(key) and canon(str(member)) in (("true", "yes") if plain(key) in _ABSENCES else _NOT_TRUE):
                return f"{key!r} says that the box is not there"
            elif isinstance(member, str) and not isinstance(member, BareWord) and key not in told:
                if requested(key, frame):
                    continue
                message = _HARMLESS.sub(" ", canon_lines(member[:MAX_MESSAGE_CHARS]))
                if takes_back(message, frame, labels) or _RETRACTION.search(message):
                    return "none beside boxes"
    return None


_NOT_TRUE = frozenset(["false", "no", "0", "none", "null", "0.0"])


def _without_names(clause: str, frame: Frame, labels: Collection[str | None]) -> str:
    """A clause without the words of what was asked for, and without the denial of a category that has no box."""
    text = _HARMLESS.sub(" ", canon(clause.replace("’", "'")))
    own = {canon(label) for label in labels if label is not None}
    for name in sorted((*frame.categories, frame.expression), key=len, reverse=True):
        name = canon(name)
        if name and name not in own and frame.expression != name:
            text = re.sub(rf"\b(?:no|not|without)(?: an?| the| any)* {re.escape(name)}(?:e?s)?\b", " ", text)
        if name and len(name) > 1:
            text = text.replace(name, " ")
    return text
