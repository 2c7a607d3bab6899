"""Visual-ARFT's rewards on the steps of a search agent (arXiv 2505.14246): one search or one final answer after a thought.

A row holds the chain of searches and results so far in its question; `meta.step` says what comes next, "search" or "answer"
(the default). Its `answer` is then the query or the final answer. Not here: searching (rows hold what was found), the code
agent.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal

from vlrl.answers.normalise import normalised
from vlrl.answers.span import ANSWER, END_ANSWER, END_THINK, THINK
from vlrl.answers.text import read_text, reference_texts
from vlrl.schema import Sample, Score

SEARCH, END_SEARCH = "<search>", "</search>"
MIN_QUERY_F1 = 0.5
"""Of a query; below it earns nothing."""
MAX_WORD_CHARS = 20_000
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_MARKS = re.compile(r"[^\w\s]|_")


def answer_word_f1(text: str, sample: Sample, *, variant: Literal["default", "released"] = "default") -> Score:
    """F1 of the answer's words against the nearest right answer's, in 0..1.

    Words are compared without case, punctuation and articles, each as often as it occurs. Source: Visual-ARFT (and SQuAD before
    it). differs: `variant="released"` counts each shared word once but all words of both sides, so that a right answer with a
    repeated word is below 1; a maths check came first there.
    """
    answer, why = read_text(text, sample)
    if answer is None:
        return Score(0.0, None, why)
    value = max(f1_of_words(answer, reference, released=variant == "released") for reference in reference_texts(sample))
    return Score(value, answer, f"F1 {value:.3f}")


def f1_of_words(answer: str, reference: str, *, released: bool = False) -> float:
    """F1 of two texts' words; 0 where they share none."""
    found, wanted = plain_words(answer), plain_words(reference)
    shared = len(set(found) & set(wanted)) if released else (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


def plain_words(text: str) -> list[str]:
    """The words of a text without case, punctuation and articles."""
    plain = _MARKS.sub("", normalised(text[:MAX_WORD_CHARS]).casefold())
    return _ARTICLES.sub(" ", plain).split()


def arft_step(text: str, sample: Sample) -> Score:
    """What a step earns: of a final answer its `token_f1`, of a search the F1 of its query's words where that is 0.5 or more;
    0 for a search where the answer was due, and the other way round.

    Source: Visual-ARFT. differs: queries are compared there by the cosine of sentence embeddings (all-MiniLM-L6-v2), also cut
    off at 0.5; no model is needed here. A step with both actions, or with one of them twice, is 0.
    """
    asked = arft_step_of(sample)
    rest = text.partition(END_THINK)[2] if END_THINK in text else text
    if asked == "answer":
        return Score(0.0, None, "searches where the answer was due") if SEARCH in rest else answer_word_f1(text, sample)
    if ANSWER in rest:
        return Score(0.0, None, "answers where a search was due")
    if rest.count(SEARCH) != 1 or rest.count(END_SEARCH) != 1:
        return Score(0.0, None, f"{rest.count(SEARCH)} searches")
    query = rest.partition(SEARCH)[2].partition(END_SEARCH)[0].strip()
    if not query or len(query) > MAX_WORD_CHARS:
        return Score(0.0, None, "no query")
    value = max(f1_of_words(query, reference) for reference in reference_texts(sample))
    return Score(value if value >= MIN_QUERY_F1 else 0.0, query, f"F1 {value:.3f} with the query, {MIN_QUERY_F1} at least")


def arft_step_of(sample: Sample) -> str:
    """What a row asks for next: "search" or "answer"."""
    return "search" if sample.facts.get("step") == "search" else "answer"


def arft_format(text: str, sample: Sample) -> Score:
    """1 if the whole text is a thought and then one search or one answer, each tag once, else 0.

    Source: Visual-ARFT. differs: white space around the whole is allowed.
    """
    for opening, closing, other in ((ANSWER, END_ANSWER, SEARCH), (SEARCH, END_SEARCH, ANSWER)):
        tags = (THINK, END_THINK, opening, closing)
        if other not in text and all(text.count(tag) == 1 for tag in tags) and _in_order(text.strip(), tags):
            return Score(1.0, opening, "a thought and one action")
    return Score(0.0, "other", "not a thought and one search or answer, each tag once")


def _in_order(text: str, tags: tuple[str, str, str, str]) -> bool:
    think, end_think, opening, closing = tags
    middle = text[text.find(end_think) + len(end_think) : text.find(opening)]
    starts, ends = text.startswith(think), text.endswith(closing)
    return starts and ends and text.find(end_think) < text.find(opening) < text.find(closing) and not middle.strip()
