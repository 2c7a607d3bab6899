"""From the text of an answer to a driving plan: one word for the speed and one for the path, or None with a reason."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass

from vlrl.answers.markup import signs_as_words, without_markup
from vlrl.answers.normalise import normalised
from vlrl.answers.phrases import MAX_READ_CHARS, OVER_LENGTH, last_replacement, one_spaced
from vlrl.answers.text import read_text
from vlrl.schema import Sample

SPEEDS = ("KEEP", "ACCELERATE", "DECELERATE", "STOP")
PATHS = ("STRAIGHT", "RIGHT_CHANGE", "LEFT_CHANGE", "RIGHT_TURN", "LEFT_TURN")


@dataclass(frozen=True, slots=True)
class Plan:
    """The meta-actions an answer names; a set may be empty or hold several. `why`: the reason where nothing is read."""

    speeds: frozenset[str]
    paths: frozenset[str]
    why: str = ""

    @property
    def speed(self) -> str | None:
        """The one speed named, else None."""
        return next(iter(self.speeds)) if len(self.speeds) == 1 else None

    @property
    def path(self) -> str | None:
        return next(iter(self.paths)) if len(self.paths) == 1 else None


_NOTHING = frozenset[str]()
_FENCE = re.compile(r"```[A-Za-z]*")
_WORD_ENDS = re.compile(r"[,;\r\n|]+|\.(?=\s|\Z)|\band\b(?=\s+(?:the\s+)?(?:speed|path)\b)", re.IGNORECASE)
_TAG = re.compile(r"</?(?:(speed|path)|[a-z_]{1,20})>", re.IGNORECASE)
_BRACKETS = str.maketrans("", "", "{}[]()<>\"'`*$")
_WRAPPER = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf|texttt)(?=\s?\{)")
_BULLET = re.compile(r"\s*(?:[-•+]|\d{1,2}[.)]|and|then)\s+(?=\S)")
_JOINTS = re.compile(r"[\s_-]+")
_KEY = re.compile(
    r"\s*(?:the\s+|final\s+|my\s+|meta[\s_-]?)*(?P<key>speed|path|longitudinal|lateral|steering|速度|车速|路径|路線|方向|속도|경로)"
    r"(?:[\s_-]*(?:plan|decision|action|control|command|word|meta[\s_-]?action|规划|决策))?\s*(?:[:=]|->|→|\bis\b|是|为|(?<=\w)\s)\s*(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_LEAD_IN = re.compile(
    r"\s*(?:(?:(?:the|my|final|driving|correct)\s+)*(?:answer|plan|decision|action|actions|output|meta[\s_-]?actions?)\s*(?:is|are|[:=])"
    r"|(?:答案|规划|决策|计划)\s*(?:是|为|:))\s*",
    re.IGNORECASE,
)
_OF_SPEED = frozenset({"speed", "longitudinal", "速度", "车速", "속도"})
_NAMED = re.compile(
    r"(?<![^\W_])(?:keep|accelerate|decelerate|stop|straight|(?:right|left)[\s_-]+(?:change|turn))(?![^\W_])", re.IGNORECASE
)
_DENIAL = re.compile(
    r"\b(?:not|never|no|cannot|without|avoid|neither|nor|otherwise|else|unless|if|or|instead|rather|except|but|maybe|perhaps|possibly"
    r"|alternatively|wrong|incorrect|false)\b|n't\b|✗|不|否则|除非|如果|或|而非",
    re.IGNORECASE,
)


def plan_words(text: str) -> Plan:
    """The plan of an answer; where a whole plan follows words such as "wait" or "correction:", that one. See `_plan_words`."""
    if len(text) > MAX_READ_CHARS:
        return Plan(_NOTHING, _NOTHING, OVER_LENGTH)
    text = one_spaced(signs_as_words(without_markup(normalised(text))))
    replaced = last_replacement(text)
    if replaced is not None:
        later = _plan_words(text[replaced.end() :])
        if later.speeds and later.paths:
            return later
    return _plan_words(text)


def _plan_words(text: str) -> Plan:
    """The words of both vocabularies in an answer: any case, split at commas, semicolons, full stops and line breaks; outer
    punctuation is dropped, spaces and hyphens inside a word read as underscores.

    `Speed: KEEP, Path: LEFT_TURN` and JSON with these keys are read; a word under the other's key, or a key with two words,
    makes the plan unread. So does a part that names a word within more words, where it denies, hedges or differs ("do not
    KEEP", "otherwise STOP") or joins two words without a comma ("KEEP and LEFT_TURN"), as published. Several words of a list
    stay several, which the published F1 is defined on.
    """
    found: set[str] = set()
    loose: set[str] = set()
    keyed: dict[str, str] = {}
    denies = False
    text = _TAG.sub(lambda tag: f",{tag[1]}:" if tag[1] and tag[0][1] != "/" else ",", _FENCE.sub("\n", _WRAPPER.sub("", text)))
    for part in _WORD_ENDS.split(text.translate(_BRACKETS)):
        bullet = _BULLET.match(part)
        part = part[bullet.end() :] if bullet else part
        lead = _LEAD_IN.match(part)
        part = part[lead.end() :] if lead else part
        key = _KEY.match(part)
        if key:
            part = key["rest"]
        word = _word(part)
        if word not in SPEEDS and word not in PATHS:
            named = {_word(one) for one in _NAMED.findall(part[:400])}
            loose |= named
            denies |= bool(_DENIAL.search(part)) and (bool(named) or len(part.split()) <= 3)
            continue
        if key:
            is_speed = key["key"].casefold() in _OF_SPEED
            kind = "speed" if is_speed else "path"
            if (word in SPEEDS) != is_speed or keyed.get(kind, word) != word:
                return Plan(_NOTHING, _NOTHING, f"{word} is no {kind}, or the {kind} has two words")
            keyed[kind] = word
        found.add(word)
    if denies and (found or loose):
        return Plan(_NOTHING, _NOTHING, "denies or hedges the plan")
    if denies or loose - found:
        why = "a word of the plan stands within other words, not between commas" if loose else ""
        return Plan(_NOTHING, _NOTHING, why)
    return Plan(_of(found, SPEEDS), _of(found, PATHS))


def _word(part: str) -> str:
    return _JOINTS.sub("_", part.strip(string.punctuation + string.whitespace)).upper()


def _of(words: Iterable[str], vocabulary: tuple[str, ...]) -> frozenset[str]:
    return frozenset(words).intersection(vocabulary)


def read_plan(text: str, sample: Sample) -> tuple[Plan | None, str]:
    """The plan of a completion's answer, or None and why when it names no word of either vocabulary, or denies or hedges it."""
    answer, why = read_text(text, sample)
    if answer is None:
        return None, why
    plan = plan_words(answer)
    if not plan.speeds and not plan.paths:
        return None, plan.why or "no word of the vocabularies"
    return plan, ""


def true_plans(sample: Sample) -> list[tuple[str, str]]:
    """The plans that are right, as (speed, path): the answer, and those of `meta.other_plans`."""
    plans = [sample.answer, *sample.facts.get("other_plans", ())]
    return [(plan["speed"], plan["path"]) for plan in plans]
