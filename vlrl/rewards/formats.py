"""Rewards on the form of a completion, used by training, evaluation and the supervised stage's check alike."""

from __future__ import annotations

from vlrl.answers.read import read_boxes, unlabelled
from vlrl.answers.span import is_in_format
from vlrl.schema import Sample, Score


def think_answer_format(text: str, sample: Sample) -> Score:
    """1 if the whole text is `<think>..</think><answer>..</answer>`, each tag exactly once, else 0.

    A sample with another `meta.answer_format` is held to that one. Source: the format reward of Visual-RFT, VLM-R1 and
    CLS-RL. differs: white space around the whole is allowed; repeated tags score 0 (published: 1).
    """
    wanted = str(sample.facts.get("answer_format", "think_answer"))
    if is_in_format(text, wanted):
        return Score(1.0, wanted, "strict form")
    return Score(0.0, "other", f"not in the form {wanted}, each tag once")


def adaptive_think_format(text: str, sample: Sample) -> Score:
    """1 if the whole text is a thought and an answer in tags, or an answer in tags alone, each tag once, else 0; `answer` says
    which.

    Both layouts earn the same, so that the model chooses by what the answers earn. Source: the adaptive-thinking study of
    CLS-RL (arXiv 2503.16188, later versions), whose code is not released; the formula is our reading of its text.
    """
    found = next((form for form in ("think_answer", "answer") if is_in_format(text, form)), None)
    if found is None:
        return Score(0.0, "other", "neither a thought and an answer nor an answer alone, each tag once")
    return Score(1.0, found, "thinks first" if found == "think_answer" else "answers at once")


def json_format(text: str, sample: Sample) -> Score:
    """1 if the tagged answer is a whole box list whose items are all valid, or an explicit none, else 0.

    Read as every reward on boxes reads it, so that what this one takes can earn something there: where a sample requests
    several categories, each item needs its label.
    """
    parsed, why = read_boxes(text, sample, tags=True, as_written=True)
    if parsed is None:
        return Score(0.0, None, why)
    if parsed.truncated:
        return Score(0.0, parsed.n_pred, "the list is cut short")
    missing = unlabelled(parsed, sample)
    if missing:
        return Score(0.0, parsed.n_pred, missing)
    invalid = parsed.n_pred - len(parsed.items)
    return Score(float(parsed.all_valid), parsed.n_pred, f"{invalid} of {parsed.n_pred} items are no valid box")


def rec_format(text: str, sample: Sample, *, object_required: bool = True) -> Score:
    """1 if the whole text has the strict form and its answer is a JSON object holding a valid box, else 0.

    `object_required=False` also takes a bare box (InternVL's form). Source: VLM-R1's format reward for REC. differs: it
    searched anywhere, so junk around the tags passed, and boxes with floats failed.
    """
    wanted = str(sample.facts.get("answer_format", "think_answer"))
    if not is_in_format(text, wanted):
        return Score(0.0, None, f"not in the form {wanted}, each tag once")
    parsed, why = read_boxes(text, sample, as_written=True)
    if parsed is None:
        return Score(0.0, None, why)
    if parsed.truncated or not parsed.n_pred or not parsed.all_valid:
        return Score(0.0, parsed.n_pred, "cut short" if parsed.truncated else "no valid box")
    if object_required and not parsed.as_objects:
        return Score(0.0, parsed.n_pred, "a box, but not in an object with keys")
    return Score(1.0, parsed.n_pred, "strict form with a box")
