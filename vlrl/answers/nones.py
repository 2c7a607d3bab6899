"""Statements that nothing is there: "None", "There is no dog in the image", "没有狗".

A text is an explicit none only where it is nothing but such statements and they name every category that was asked for, or none
of them by name. Words that cannot be matched with a category leave the text unread. Longer texts than 400 characters are prose.
"""

from __future__ import annotations

import re

from vlrl.answers import none_words
from vlrl.answers.box_items import Frame, requested
from vlrl.answers.category_words import WORDS
from vlrl.answers.span import canon

MAX_STATEMENT_CHARS = 400
ALL = "*"
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
    r",? (?:or|and|nor|und|oder|noch|ni|y|o|ou|et|e|или|ни|и)"
    r" (?:no |any |an? |the |keine?[nrs]? )?|[,、，/;]\s*|和|或者?|与|及|や"
)
_ARTICLES = re.compile(
    r"(?:(?:con|cái|single|any|an?|the|single|either|un|une|una|el"
    r"|la|los|las|de|eine?[nr]?) )+|一?[只个辆条匹头架艘张]"
)
_LEAD = re.compile(
    r"(?:(?:the |my )?(?:final )?(?:answer|result|output|prediction|response)s?(?: is| are)? ?[:：]? ?|答案[是为]?[:：]? ?)"
)
SENTENCE = re.compile(r"[.!?;。！？；\r\n]+")
_EMPTY = re.compile(r"\[\s*\]|\{\s*\}")
STATEMENT_MARKS = " \t\"'`*“”‘’()（）「」.。"


_BOXED = re.compile(r"\$?\\boxed\{(?:\\text\{)?([^{}]{1,200})\}{1,2}\$?\.?")


def says_none(text: str, frame: Frame) -> bool:
    """Whether a text is nothing but the statement that none of what was asked for is there."""
    text = text.strip()
    if not text or len(text) > MAX_STATEMENT_CHARS:
        return False
    boxed = _BOXED.fullmatch(text)
    stripped = text = text if boxed is None else boxed[1]
    if _EMPTY.fullmatch(text):
        return True
    if (text[0], text[-1]) in (("[", "]"), ("{", "}")):
        stripped = text[1:-1].strip()
        if not stripped or any(mark in stripped for mark in "[]{}"):
            return False
    gone: set[str] = set()
    for sentence in SENTENCE.split(stripped):
        if not sentence.strip(STATEMENT_MARKS) or _EMPTY.fullmatch(sentence.strip()):
            continue
        names = what_is_denied(sentence, frame)
        if names is None:
            return False
        gone |= names
    return bool(gone) and (ALL in gone or gone >= {canon(category) for category in frame.categories})


def what_is_denied(sentence: str, frame: Frame, loosely: bool = False) -> set[str] | None:
    """The categories a sentence says are not there, in canonical form, or all; None where it says no such thing.

    `loosely`: a category counts where it is one of the words ("no brown dog"), and where no categories were asked for, anything
    that is not there is what was asked for."""
    if len(sentence) > MAX_STATEMENT_CHARS:
        return None
    text = canon(sentence.replace("’", "'")).strip(STATEMENT_MARKS)
    text = _LEAD.sub("", text, count=1) if _LEAD.match(text) else text
    whole = _stated(text, frame, loosely)
    if whole is not None or "," not in text:
        return whole
    parts = [_stated(part.strip(STATEMENT_MARKS), frame, loosely) for part in text.split(",")]
    return None if any(part is None for part in parts) else set().union(*(part for part in parts if part))


def _stated(text: str, frame: Frame, loosely: bool = False) -> set[str] | None:
    if text in _BARE or text in none_words.BARE:
        return {ALL}
    for pattern in (*_STATEMENTS, *none_words.STATEMENTS):
        found = pattern.fullmatch(text)
        if found is None:
            continue
        what = found.groupdict().get("what")
        names = {ALL} if not what else _categories(what, frame)
        if names is None and what and loosely:
            names = _mentioned(what, frame)
        if names is not None:
            return names
    return None


def _categories(what: str, frame: Frame) -> set[str] | None:
    """The categories that are named, or all where it is "objects" or the like; None if anything else is named."""
    what = what.strip(STATEMENT_MARKS)
    if _GENERIC.fullmatch(what):
        return {ALL}
    what = _OF_CATEGORY.sub("", what, count=1) if _OF_CATEGORY.match(what) else what
    one = _category(what, frame)
    if one is not None:
        return {one}
    names = [_category(part, frame) for part in _JOINED.split(what) if part]
    if not names or None in names or len(set(names)) < len(names):
        return None
    return {name for name in names if name is not None}


_OTHERS = re.compile(
    r"\b(?:others?|more|further|additional|else|doubt|need|problem|text|reason|way|idea)\b"
    r"|其他|其它|别的|他に|ほか"
)


def _mentioned(what: str, frame: Frame) -> set[str] | None:
    """The categories among the words of what is not there; all where one thing was asked for in words."""
    if _OTHERS.search(what):
        return None
    if not frame.categories:
        return {ALL}
    found = {canon(one) for one in frame.categories if re.search(rf"(?<![\w-]){re.escape(canon(one))}(?:e?s)?(?![\w-])", what)}
    return found or None


def _category(word: str, frame: Frame) -> str | None:
    word = word.strip(STATEMENT_MARKS)
    for form in (word, _ARTICLES.sub("", word, count=1) if _ARTICLES.match(word) else word):
        if (name := requested(form, frame)) is not None:
            return canon(name)
        for category in frame.categories:
            if form in WORDS.get(canon(category), ()) or form in none_words.THINGS.get(canon(category), ()):
                return canon(category)
    return None
