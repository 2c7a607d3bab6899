"""Rewards on the form of a completion, used by training, evaluation and the supervised stage's check alike."""

from __future__ import annotations

from vlrl.parsing import answer_span, is_think_answer, parse_boxes
from vlrl.schema import Sample, Score


def think_answer_format(text: str, sample: Sample) -> Score:
    """1 if the whole text is `<think>..</think><answer>..</answer>`, each tag exactly once, else 0.

    Source: the format reward of Visual-RFT, VLM-R1 and CLS-RL. differs: white space around the whole is allowed; repeated
    tags score 0 (published: 1).
    """
    if is_think_answer(text):
        return Score(1.0, "think_answer", "strict form")
    return Score(0.0, "other", "not <think>..</think><answer>..</answer> with each tag once")


def json_format(text: str, sample: Sample) -> Score:
    """1 if the tagged answer is a whole box list whose items are all valid, or an explicit none, else 0."""
    span = answer_span(text)
    if span.text is None or not span.tagged:
        return Score(0.0, None, span.why or "no answer tags")
    parsed = parse_boxes(span.text)
    if isinstance(parsed, str):
        return Score(0.0, None, parsed)
    if parsed.truncated or span.truncated:
        return Score(0.0, parsed.n_pred, "the list is cut short")
    invalid = parsed.n_pred - len(parsed.items)
    return Score(float(parsed.all_valid), parsed.n_pred, f"{invalid} of {parsed.n_pred} items are no valid box")
