"""What the words right before a box name: a category that was asked for, another thing, or nothing.

"the brown dog is at", "dog 2:" and "狗位于" name a dog; "hot dog:", "non-dog:", "the dog's owner is at" and "dog or cat:" do
not. A name is a noun phrase that ends with the category, with plain adjectives before it. Words that only lead up to a box
("the bounding box is") name nothing. Unknown words name another thing only where they are plainly the name of the box.
"""

from __future__ import annotations

import re

from vlrl.answers.box_items import Frame, requested, roles_of
from vlrl.answers.category_words import WORDS
from vlrl.answers.span import canon

GENERIC_LEAD = frozenset(
    ["answer", "final answer", "result", "results", "output", "box", "boxes", "bbox", "bbox 2d", "bounding box",
     "bounding boxes", "coordinates", "location", "position", "object", "objects", "detection", "detections", "json",
     "region", "here", "found", "target", "答案", "坐标", "位置", "边界框", "结果"]
)  # fmt: skip
LEAD_MARKS = " \t|,，、:：=-–—>\"'`*([{"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILLERS = _words(
    """the a an this that these those it its one two three four five several all any each every both some there here is are was
    were be been being has have had can could will would i we my our you your me us see saw seen find found detect detected
    detecting locate located identify identified identifies spot spotted observe observed visible shown show shows showing
    contain contains containing depict depicts present appear appears at in on of for from to with within inside around by
    under over behind beside near next between above below into onto through along across against toward towards as that which
    who where while box boxes bbox bboxes bounding bound coordinate coordinates coords corner corners location locations
    position positions positioned region regions area rectangle rect pixel pixels top bottom upper lower left right middle
    center centre side background foreground image picture photo photograph frame scene view screen answer answers final result
    results output response prediction predictions detection detections object objects target targets item items instance
    instances follows label labels labeled labelled class category categories json list format following requested correct given
    x y x1 y1 x2 y2 xmin ymin xmax ymax sure okay ok certainly yes so thus therefore hence then also now please let exactly
    approximately roughly about only single number no.
    der die das den dem des ein eine einen einem einer ist sind befindet befinden sich bei auf im bild
    el la los las un una uno unos unas está están es son en se encuentra encuentran imagen ubicado ubicada de del
    le les l' du une est sont à trouve trouvent situé située dans sur au
    il lo gli è sono si trova trovano nell' nella immagine alle o os as um uma estão em na no localizado localizada
    imagem het een er bevindt zich op afbeelding на в изображении находится находятся есть координатах det en ett är på"""
)
_ADJECTIVES = _words(
    """first second third fourth fifth sixth last other another main big large small little tiny huge tall short long young old
    adult white black brown red green blue yellow orange pink purple gray grey golden tan beige dark light bright silver
    leftmost rightmost topmost bottommost upper lower central nearest closest farthest larger smaller bigger largest smallest
    same single visible detected standing sitting lying running walking sleeping moving parked fluffy furry cute spotted
    striped beautiful whole entire partial partially occluded blurry distant front rear domestic"""
)
_LETTER = r"(?:[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|['-])"
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_CJK_FILLERS = re.compile(
    r"可以看到|图像|图片|图中|画面|照片|场景|画像|写真|这里|存在|看到|位于|位置|处于|坐标|座標|边界框|检测框|检测到|检测|结果|答案|目标"
    r"|物体|对象|识别|分别|以下|如下|以及|左侧|右侧|左边|右边|あります|います|ある|いる|です|人目"
    r"|이미지|사진|에는|에서|있습니다|위치|좌표|입니다|마리"
    r"|[只个辆条匹头架艘张位名棵台图中里上内这该此那有一两三几在是为的到框和与及左右处第はがにをでのもと匹頭에은는이가의한]"
)
_TOKEN = re.compile(r"[\ue000-\uf8ff]|[^\W\d_\ue000-\uf8ff][^\s,.;:：()\[\]/*`\"=!?|\ue000-\uf8ff-]*")
_BREAK = re.compile(r"[,，、]\s*|[。.!！?？]\s+|[。！？]|\.(?=\Z)")
_AND = re.compile(r"(?:and|和|与|及)\s*")
_LEAD = re.compile(r"(?:^|[\n\r;；])[\s\-*•]*(?:\(?[0-9]{1,3}[.):]\s*)?(?P<lead>[^\n\r;；]{0,80})\Z")
_NAMED = re.compile(r"[\"'`*]*(?P<label>[^\d\W][^:：\n\"'`*]{0,39})[\"'`*]*\s*[:：]\s*[\"'`*]*")
_HEADING = re.compile(r"(?:\A|\n)[ \t\-•]*(?:#{1,6} |\*\*)?(?P<name>[^\n:：#*]{1,60})(?:\*\*)?[ \t]*[:：]?(?:\*\*)?\Z")
"""A line of its own that names what the boxes below it are: "### Dog", "**dog**", "Dog:"."""
_BULLETS = " \t-*•,;.|`\"'"
_JOINS = frozenset(["or", "and", "nor", "vs", "versus", "but", "not", "oder", "und", "ou", "et", "y", "或", "和", "no"])
_LOCATING = re.compile(
    r"(?:[:：=]|->|→|\b(?:at|is|are|in|to|here|bei|ist|en|est|à|a|em|è|está|op|на|в)|位于|在|是|は|に|은|는)[\s\"'`*(]*\Z"
    r"|\A\W*(?:[\w'-]+\W+){0,3}\Z"
)
_KEYED = re.compile(
    r"(?:label|class(?: name)?|category(?: name)?|object|name|item|类别|标签|名称)\W*[:：=]\s*[\"'`*]*"
    r"(?P<label>[^,，;；|:：\n\"'`*]{1,60}?)[\"'`*]*\s*[,，;；|]?\s*(?:(?:and )?(?P<key>[^\W\d][\w ]{0,30})\W*)?",
    re.IGNORECASE,
)
_LOCATED = re.compile(
    r"(?:(?:which |that )?(?:is |are )?(?:located|positioned|found|situated)|位于|在|坐标[为是]?|位置[为是在]?|at|its? .*)"
    r"[\s\w]{0,20}"
)
_THINGS = frozenset(word for name, words in WORDS.items() for word in (name, *words) if len(word) > 1 or not word.isascii())


def label_before(words: str, frame: Frame, is_box: bool = True) -> str | None:
    """The label in the words right before a box (`is_box`) or a list: a category that was asked for; the words themselves where
    they name another thing, or not exactly one; None where they name nothing."""
    tail = words[-160:]
    found = _LEAD.search(tail)
    lead = found["lead"].strip() if found is not None else tail[-80:].strip()
    keyed = _KEYED.fullmatch(tail.rsplit("\n", 1)[-1].strip(_BULLETS))
    if keyed is not None and (keyed["key"] is None or is_generic(keyed["key"])):
        return requested(keyed["label"], frame) or keyed["label"].strip()
    if found is not None and (is_generic(lead) or not lead.strip(LEAD_MARKS)):
        heading = _HEADING.search(tail[: found.start()].rstrip())
        return None if heading is None else requested(heading["name"], frame)
    if not lead.strip(LEAD_MARKS) or is_generic(lead):
        return None
    if frame.categories:
        whole = requested(lead.strip(LEAD_MARKS), frame)
        clauses = [whole] if whole is not None else [c for c in _BREAK.split(lead.rstrip(LEAD_MARKS)) if c.strip()]
        for clause in reversed(clauses):
            name = _named(clause, frame, is_box and bool(_LOCATING.search(lead)) and clause is clauses[-1])
            if name is not None:
                return name
            if not _only_locates(clause):
                break
    named = _NAMED.fullmatch(lead)
    if (
        named is None
        or len(named["label"].split()) > 3
        or is_generic(named["label"])
        or (frame.categories and _all_filler(lead))
    ):
        return None
    return named["label"].strip()


def is_generic(text: str) -> bool:
    """Whether words in front of a box only say that a box follows."""
    word = canon(text).strip(LEAD_MARKS + "]})|#.").removeprefix("the ")
    return word in GENERIC_LEAD or bool(roles_of((word,)).boxes)


def names_label(lead: str, frame: Frame) -> bool:
    """Whether words between two boxes are nothing but the label of the second."""
    clauses = [clause for clause in _BREAK.split(lead.strip(LEAD_MARKS)) if clause]
    keyed = _KEYED.fullmatch(lead.strip(_BULLETS)) is not None
    if not keyed and (len(clauses) > 2 or (len(clauses) == 2 and not _only_locates(clauses[1]))):
        return False
    name = label_before(lead, frame)
    return name is not None and (keyed or name in frame.categories or _NAMED.fullmatch(lead.strip()) is not None)


def _only_locates(clause: str) -> bool:
    """Whether a clause goes on with what the clause before it names ("located at", "位于")."""
    return _LOCATED.fullmatch(canon(clause).strip(LEAD_MARKS)) is not None


def _all_filler(lead: str) -> bool:
    return all(token in _FILLERS or token in _ADJECTIVES for token in _TOKEN.findall(_without_cjk_fillers(canon(lead))))


def _without_cjk_fillers(text: str) -> str:
    return _CJK.sub(lambda run: f" {_CJK_FILLERS.sub(' ', run[0])} ", text)


def _named(clause: str, frame: Frame, is_naming: bool) -> str | None:
    if _AND.match(clause):
        clause = _AND.sub("", clause, count=1)
    name = requested(clause, frame)
    if name is not None:
        return name
    tokens = _TOKEN.findall(_without_cjk_fillers(_with_signs(canon(clause), frame)))
    signs = {token for token in tokens if token >= "\ue000"}
    rest = [token for token in tokens if token in signs or token not in _FILLERS]
    things = [token for token in rest if token not in signs and _is_thing(token)]
    head = _head(tokens)
    if head is None:
        return None
    if tokens[head] in signs and not _is_compound(tokens, head, signs, clause):
        return frame.categories[ord(tokens[head]) - 0xE000]
    if signs or things or (is_naming and len(rest) <= 5):
        return clause.strip(LEAD_MARKS + ".")[:60]
    return None


def _head(tokens: list[str]) -> int | None:
    """Where the first word stands that is no filler and no adjective ("and" between adjectives is none)."""
    for i, token in enumerate(tokens):
        joins = token == "and" and i > 0 and tokens[i - 1] in _ADJECTIVES
        if not joins and token not in _FILLERS and token not in _ADJECTIVES:
            return i
    return None


def _is_thing(token: str) -> bool:
    return token in _THINGS or any(token.endswith(end) and token.removesuffix(end) in _THINGS for end in ("s", "es"))


def _is_compound(tokens: list[str], head: int, signs: set[str], clause: str) -> bool:
    """Whether a category's name is only a part of what is named: "dog house", "dog or cat", "dog's owner", "non-dog"."""
    text = canon(clause)
    if re.search(r"\bnon[- ]|\bun-|\bnot\b", text):
        return True
    after = tokens[head + 1 :]
    if not after or after[0] == tokens[head]:
        return bool(re.search(r"/\s*[^\W\d]", text))
    if after[0] in _JOINS:
        return any(token != tokens[head] and token not in _FILLERS and token not in _ADJECTIVES for token in after[1:])
    if after[0] in signs:
        return True
    return after[0] not in _FILLERS and after[0] not in _ADJECTIVES and not (after[0].isascii() and after[0].endswith("ing"))


def _with_signs(text: str, frame: Frame) -> str:
    """The text with one private character for each category that was asked for, in English or another language."""
    spoken = [(canon(name), i) for i, name in enumerate(frame.categories[:200])]
    spoken += [(word, i) for name, i in spoken for word in WORDS.get(name, ())]
    for word, i in sorted(spoken, key=lambda one: -len(one[0])):
        if not word or word not in text:
            continue
        sign = chr(0xE000 + i)
        if _CJK.search(word):
            text = text.replace(word, f" {sign} ")
        else:
            text = re.sub(rf"(?<!{_LETTER}){re.escape(word)}(?:e?s)?(?:'s?)?(?!{_LETTER})", f" {sign} ", text)
    return text
