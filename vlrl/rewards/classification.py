"""Rewards on the name of a class. Labels are compared whole; only `visual_rft_classification` accepts a part."""

from __future__ import annotations

import re
from functools import lru_cache

from vlrl.answers.markup import signs_as_words, without_markup
from vlrl.answers.normalise import normalised
from vlrl.answers.phrases import before, behind, denials, denied
from vlrl.answers.read import read_span
from vlrl.answers.span import canon
from vlrl.answers.text import bare_text, read_text, short_forms
from vlrl.schema import Sample, Score


def cls_rl_accuracy(text: str, sample: Sample) -> Score:
    """1 if the answer is the label, by canonical equality, else 0.

    What is put around a short answer does not count: a final full stop, quotes, emphasis, "The answer is"
    (`vlrl.answers.text.short_forms`), nor do sentences before a last statement that is the label; an article does. A
    completion without the answer tags that its sample requests must be the label as it is. Source: CLS-RL (arXiv 2503.16188).
    differs: no maths check before the comparison (it took "1994 Audi 100 Wagon" for "1994 Audi 100 Sedan"); a full stop
    within the tags and an answer on a line of its own are read.
    """
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    is_tagged = read_span(text, sample).tagged or sample.facts.get("answer_format") == "none"
    label = bare_text(sample.answer) if is_tagged else canon(sample.answer)
    right = label != "" and label in (short_forms(answer) if is_tagged else (canon(answer),))
    return Score(float(right), answer, "the label" if right else f"not the label {sample.answer!r}")


def cls_rl_no_think(text: str, sample: Sample) -> Score:
    """1 if the whole completion is exactly the label, apart from white space around it, else 0.

    Source: CLS-RL's no-thinking reward. differs: white space around the completion is allowed; both sides are normalised
    (`vlrl.answers.normalise`), so that one character has one form.
    """
    answer = text.strip()
    if not answer:
        return Score(0.0, None, "empty completion")
    right = normalised(answer) == normalised(sample.answer.strip())
    return Score(float(right), answer, "the label" if right else f"not the label {sample.answer!r} exactly")


def visual_rft_classification(text: str, sample: Sample, *, min_cover: float = 0.5) -> Score:
    """1 if the label is part of the tagged answer, or the answer a part of the label that covers `min_cover` of it, else 0.

    Compared without case, spaces and underscores. With `choices`, an answer that is another choice, or holds another choice
    which is not part of the label, is 0; so is one that denies the label or offers it beside another ("not a beagle",
    "beagle or pug"). Source: Visual-RFT (arXiv 2503.01785). differs: an empty answer and parts of any
    length matched; prose without tags was searched; other choices were not looked at; a maths check came first.
    """
    answer, why = read_text(text, sample, tags=True)
    if answer is None:
        return Score(0.0, None, why)
    answer = without_markup(answer)
    predicted, label = _squeezed(answer), _squeezed(sample.answer)
    if not predicted or not label:
        return Score(0.0, answer, "nothing to compare")
    for choice in sample.choices or ():
        other = _squeezed(choice)
        if other and other != label and (predicted == other or (other in predicted and other not in label)):
            return Score(0.0, answer, f"names another choice, {choice!r}")
    if bare_text(sample.answer) in short_forms(answer):
        return Score(1.0, answer, "the label")
    if label in predicted and _denies_or_hedges(answer, sample.answer):
        return Score(0.0, None, "denies the label, or names it as one of several")
    if label in predicted:
        return Score(1.0, answer, "the label, or more words around it")
    if predicted in label:
        covered = len(predicted) / len(label)
        return Score(
            float(covered >= min_cover), answer, f"part of the label: {covered:.2f} of it, at least {min_cover} counts"
        )
    return Score(0.0, answer, f"not the label {sample.answer!r}")


_HEDGE = re.compile(
    r"\b(?:or|either|versus|vs|and|no|false|then|oder|und|ou|et|y|o)\b|[/;|&+]|或|还是|和|または|또는", re.IGNORECASE
)
_PARTS = re.compile(r"[,;\n{}]|[.!?](?:\s|\Z)")
_APPOSITION = re.compile(r"\s*(?:an?|the|which|because|since|as|it|this|that|is|known|also|of|in|on|with|from|so)\b")


def _denies_or_hedges(answer: str, label: str) -> bool:
    """Whether the words around a label deny it or name something else beside it."""
    words, name = canon(signs_as_words(answer)), canon(label)
    around = words.replace(name, " ")
    at = words.find(name)
    if at >= 0 and words.startswith("?", at + len(name)):
        return True
    if at >= 0 and denied(before(words, at), behind(words, at + len(name))):
        return True
    if denials(around) or _HEDGE.search(around):
        return True
    others = [canon(part) for part in _PARTS.split(answer) if name not in canon(part)]
    others = [part.strip(" .") for part in others if part.strip(" .")]
    return any(len(part.split()) <= 3 and not _APPOSITION.match(part) for part in others)


def _squeezed(text: str) -> str:
    return _squeezed_short(text) if len(text) <= 200 else _squeeze(text)


def _squeeze(text: str) -> str:
    return "".join(normalised(text).casefold().replace("_", " ").strip(" .!").split())


_squeezed_short = lru_cache(maxsize=8192)(_squeeze)
