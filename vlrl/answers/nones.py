"""Statements that nothing is there: "None", "There is no dog in the image", "没有狗". And words that take back the boxes beside
them.

A text is an explicit none only where it is nothing but such statements and they name every category that was asked for, or none
of them by name. Words that cannot be matched with a category leave the text unread. Longer texts than 400 characters are prose.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from vlrl.answers.box_items import Frame, requested
from vlrl.answers.category_words import WORDS
from vlrl.answers.span import canon

MAX_STATEMENT_CHARS = 400
_ALL = "*"
"""Stands for every category that was asked for."""

_BARE = frozenset(
    ["none", "null", "nil", "n/a", "empty", "empty list", "not found", "not present", "not visible", "absent", "no result",
     "no results", "no detection", "no detections", "无", "無", "没有", "空", "无结果", "不存在", "なし", "無し", "ありません",
     "いません", "없음", "없습니다", "keine", "keiner", "keines", "keins", "nichts", "ninguno", "ninguna", "nada", "aucun",
     "aucune", "rien", "nessuno", "nessuna", "niente", "nenhum", "nenhuma", "нет", "ничего", "geen"]
)  # fmt: skip
_SEEN = r"(?:present|visible|found|detected|seen|shown|depicted|identified|located|observed|available|included|here|there)"
_IMAGE = r"(?:image|picture|photo|photograph|scene|frame|view|figure)"
_PLACE = rf"(?:(?:in|on|within|inside) (?:the|this|that) (?:(?:given|provided|input|entire|whole) )?{_IMAGE})"
_END = rf"(?: (?:is|are|was|were|can be|could be|to be))?(?: {_SEEN})?(?: {_PLACE})?(?: {_SEEN})?"
_ZH_PLACE = r"(?:在?(?:这张|这幅|该|此|本|当前)?(?:图像|图片|图|画面|照片|场景)(?:中|里|内|上)?,? ?)"
_JA_PLACE = r"(?:(?:この)?(?:画像|図|写真|絵|シーン)(?:の中)?(?:には|では|に|で)?、? ?)"
_KO_PLACE = r"(?:(?:이 |해당 )?(?:이미지|사진|그림|화면)(?:에는|에서|에)? ?)"
_DE_IMAGE = r"(?:im|auf dem|in dem|in diesem|auf diesem) (?:bild|foto)"
_DE_END = rf"(?: {_DE_IMAGE})?(?: (?:zu sehen|sichtbar|gefunden|erkannt|vorhanden|erkennbar))?"
_ES_END = r"(?: (?:visibles?|presentes?|detectad[oa]s?))?(?: en (?:la|esta) (?:imagen|foto|escena))?"
_FR_END = r"(?: (?:visibles?|présente?s?|détectée?s?))?(?: (?:dans|sur) (?:l'|cette |la )(?:image|photo|scène))?"
_IT_END = r"(?: (?:nell'|in questa )immagine)?"
_PT_END = r"(?: (?:na|nesta) (?:imagem|foto|cena))?"
_STATEMENTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?:(?:there (?:is|are|was|were)|there's|(?:i|we) (?:can )?(?:see|find|found|detect|detected)|(?:the|this) {_IMAGE}"
        rf" (?:contains|has|shows|includes|depicts)|it (?:contains|has|shows)) )?(?:no|zero|0|not any) (?P<what>.+?){_END}",
        rf"there (?:is|are|was|were)(?: not|n't)(?: any| an?| single)* (?P<what>.+?){_END}",
        rf"(?:(?:the|this) {_IMAGE}|it) (?:does not|doesn't) (?:contain|have|show|include|depict|feature)"
        rf"(?: any| an?| single)* (?P<what>.+?){_END}",
        rf"(?P<what>.+?) (?:(?:is|are|was|were)(?: not|n't)|(?:can ?|could ?)(?:not|n't) be) (?:{_SEEN}(?: {_PLACE})?|{_PLACE})"
        r"(?: either)?",
        rf"(?P<what>.+?) (?:(?:is|are|was|were) )?(?:absent|missing)(?: from (?:the|this) {_IMAGE})?",
        rf"(?P<what>.+?) not {_SEEN}(?: {_PLACE})?",
        rf"(?:i|we) (?:can ?not|can't|could not|couldn't|do not|don't|did not|didn't) (?:see|find|detect|locate|identify)"
        rf"(?: any| an?| single)* (?P<what>.+?){_END}",
        rf"(?:there (?:is|are) )?neither (?P<what>.+?){_END}",
        rf"(?:none|nothing)(?: (?:is|are|was|were|can be))? {_SEEN}(?: {_PLACE})?|none {_PLACE}",
        rf"none of (?:the )?(?P<what>.+?) (?:is|are|was|were|can be) (?:{_SEEN}(?: {_PLACE})?|{_PLACE})",
        r"(?P<what>.+?) ?(?::|=|->|-) ?(?:none|null|no|0|\[\]|not found|not present|not visible|absent|无|没有|なし|keine)",
        # Chinese, Japanese, Korean
        rf"{_ZH_PLACE}?(?:并|均|都)?(?:(?:未能|未|没有|没)(?:检测|发现|找|看|识别)[到出]?|没有|无|不存在|不包含|不含|看不到|找不到)"
        rf"(?:任何)?(?P<what>.*?){_ZH_PLACE}?(?:存在|出现)?",
        rf"(?P<what>.+?){_ZH_PLACE}?(?:不存在|没有出现|未出现|未检测到|未发现|不可见)",
        rf"{_JA_PLACE}?(?P<what>.*?)(?:は|が|も)?(?:写って|映って|存在して)?(?:いません|ありません|いない|ない|なし|無し|存在しません|"
        r"見つかりません|見当たりません|検出されません|見えません)(?:でした|です)?",
        rf"{_KO_PLACE}?(?P<what>.*?)(?:이|가|은|는|을|를)? ?(?:없음|없습니다|없다|없어요|보이지 않습니다|찾을 수 없습니다)",
        # German, Spanish, French, Italian, Portuguese, Dutch, Russian
        rf"(?:(?:es (?:gibt|sind|ist)|{_DE_IMAGE} (?:gibt es|sind|ist)|ich sehe|da (?:sind|ist)) )?"
        rf"keine?[nrs]? (?P<what>.+?){_DE_END}",
        r"(?:no (?:hay|veo|existen?)|no se (?:ven?|encuentran?|observan?|detecta(?:n|ron)?|detectó|encontr(?:ó|aron)))"
        rf"(?: ning[uú]n[oa]?)? (?P<what>.+?){_ES_END}",
        rf"(?:ning[uú]n[oa]?|sin) (?P<what>.+?){_ES_END}",
        rf"(?:il n'y a (?:pas (?:de |d')|aucune? )|aucune? |pas (?:de |d'))(?P<what>.+?){_FR_END}",
        rf"(?:non (?:c'è|ci sono) (?:nessuna? |alcuna? |nessun |alcun )?|nessun[ao]? )(?P<what>.+?){_IT_END}",
        rf"(?:n[ãa]o (?:há|existem?|vejo) (?:nenhuma? )?|nenhuma? )(?P<what>.+?){_PT_END}",
        r"(?:er (?:is|zijn) )?geen (?P<what>.+?)(?: (?:in|op) de (?:afbeelding|foto))?",
        r"(?:на (?:изображении|фото|картинке) )?нет (?P<what>.+?)(?: на (?:изображении|фото|картинке))?",
    )
)
_KIND = r"(?:categor(?:y|ies)|class(?:es)?|types?|labels?|kinds?|list|names?)"
_GENERIC = re.compile(
    r"(?:(?:such|requested|given|specified|listed|matching|relevant|detectable|visible|corresponding|target|these|those|the|of"
    r") )*(?:objects?|targets?|items?|instances?|match(?:es)?|detections?|(?:bounding )?box(?:es)?|results?|categor(?:y|ies)"
    rf"|class(?:es)?)(?: (?:of|from|in|matching|belonging to|for) (?:the|this|that|these|those|any of the)(?: \w+)? {_KIND})?"
    r"|them|these|those|(?:任何|相关|指定|该|此类|目标|检测|符合条件的|要求的)*(?:目标|物体|对象|类别|东西|边界框|框|结果)"
    r"|物体|対象物?|オブジェクト|該当(?:する)?(?:物体|もの)?|何も|객체|물체|대상|objekte?[ns]?|ziele?|objetos?|objetivos?|objets?|cibles?|oggett[oi]|объектов|objecten"
)
_OF_CATEGORY = re.compile(
    rf"(?:(?:such |visible )?(?:objects?|instances?|items?|things?) )?(?:belonging to|of|from|in|for) (?:the )?{_KIND}:? "
)
_JOINED = re.compile(
    r",? (?:or|and|nor|und|oder|noch|ni|y|o|ou|et|e|или|и) (?:no |any |an? |the )?|[,、，/;]\s*|和|或者?|与|及|や"
)
_ARTICLES = re.compile(r"(?:(?:any|an?|the|single|either|un|une|una|el|la|los|las|de|eine?[nr]?) )+|一?[只个辆条匹头架艘张]")
_LEAD = re.compile(
    r"(?:(?:the |my )?(?:final )?(?:answer|result|output|prediction|response)s?(?: is| are)? ?[:：]? ?|答案[是为]?[:：]? ?)"
)
_SENTENCE = re.compile(r"[.!?;。！？；\r\n]+")
_EMPTY = re.compile(r"\[\s*\]|\{\s*\}")
_MARKS = " \t\"'`*“”‘’()（）「」.。"


def says_none(text: str, frame: Frame) -> bool:
    """Whether a text is nothing but the statement that none of what was asked for is there."""
    text = text.strip()
    if not text or len(text) > MAX_STATEMENT_CHARS:
        return False
    if _EMPTY.fullmatch(text):
        return True
    stripped = text
    if (text[0], text[-1]) in (("[", "]"), ("{", "}")):
        stripped = text[1:-1].strip()
        if not stripped or any(mark in stripped for mark in "[]{}"):
            return False
    denied: set[str] = set()
    for sentence in _SENTENCE.split(stripped):
        if not sentence.strip(_MARKS) or _EMPTY.fullmatch(sentence.strip()):
            continue
        names = _denied(sentence, frame)
        if names is None:
            return False
        denied |= names
    return bool(denied) and (_ALL in denied or denied >= {canon(category) for category in frame.categories})


def takes_back(text: str, frame: Frame, labels: Collection[str | None]) -> bool:
    """Whether a text beside boxes of these labels says that they are not there ("None", "no dog", "No.")."""
    own = {canon(label) for label in labels if label is not None} | {_ALL}
    for sentence in _SENTENCE.split(text):
        for part in (sentence, *re.split(r"[,，:：]", sentence)):
            names = _taken_back(part, frame)
            if names is not None and names & own:
                return True
            if names is not None and part is sentence:
                break
    return False


def _taken_back(part: str, frame: Frame) -> set[str] | None:
    if len(part) > MAX_STATEMENT_CHARS:
        return None
    part = re.sub(r"\A(?:or|otherwise|else|and|but|oder|或者?|还是) ", "", canon(part).strip(_MARKS))
    return {_ALL} if part in ("no", "nope", "false", "wrong", "incorrect") else _denied(part, frame) if part else None


def _denied(sentence: str, frame: Frame) -> set[str] | None:
    """The categories a sentence says are not there, in canonical form, or all; None where it says no such thing."""
    if len(sentence) > MAX_STATEMENT_CHARS:
        return None
    text = canon(sentence.replace("’", "'")).strip(_MARKS)
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    whole = _stated(text, frame)
    if whole is not None or "," not in text:
        return whole
    parts = [_stated(part.strip(_MARKS), frame) for part in text.split(",")]
    return None if any(part is None for part in parts) else set().union(*(part for part in parts if part))


def _stated(text: str, frame: Frame) -> set[str] | None:
    if text in _BARE:
        return {_ALL}
    for pattern in _STATEMENTS:
        found = pattern.fullmatch(text)
        if found is None:
            continue
        what = found.groupdict().get("what")
        names = {_ALL} if not what else _categories(what, frame)
        if names is not None:
            return names
    return None


def _categories(what: str, frame: Frame) -> set[str] | None:
    """The categories that are named, or all where it is "objects" or the like; None if anything else is named."""
    what = what.strip(_MARKS)
    if _GENERIC.fullmatch(what):
        return {_ALL}
    what = _OF_CATEGORY.sub("", what, count=1) if _OF_CATEGORY.match(what) else what
    one = _category(what, frame)
    if one is not None:
        return {one}
    names = [_category(part, frame) for part in _JOINED.split(what) if part]
    return None if not names or None in names else {name for name in names if name is not None}


def _category(word: str, frame: Frame) -> str | None:
    word = word.strip(_MARKS)
    for form in (word, _ARTICLES.sub("", word, count=1) if _ARTICLES.match(word) else word):
        if (name := requested(form, frame)) is not None:
            return canon(name)
        for category in frame.categories:
            if form in WORDS.get(canon(category), ()):
                return canon(category)
    return None


# ---- negation and alternatives around boxes

_NEGATION = re.compile(
    r"\b(?:not|no|never|neither|nor|without|except|nope|wrong|incorrect|false|cannot|instead of|rather than|anything but|nicht"
    r"|kein\w*|pas|aucune?|ning[uú]n\w*|nunca|jamais|нет|не)\b|n't\b|不是|并非|没有|不在|不对|错误|除了|ではな|じゃな|ありません|아니"
)
_HARMLESS = re.compile(r"\b(?:no (?:other|others|more|further|additional)|not only|not just|no doubt)\b")
_OTHERWISE = re.compile(r"\b(?:or|otherwise|alternatively|either|oder|ou|versus|vs)\b|或|还是|または|もしくは")
_CLAUSE_END = re.compile(r"[.!?。！？\r\n]")


def doubt(before: str, between: str, after: str, frame: Frame, labels: Collection[str | None]) -> str | None:
    """What the words around boxes say against them, or None: a statement that they are not there, a negation in the clause of
    the first or the last box, an alternative between boxes or behind them."""
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
    return None


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
