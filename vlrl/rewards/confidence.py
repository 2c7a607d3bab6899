"""`calibrated_confidence`: being right, and knowing how likely that is.

A completion states its confidence in words (`vlrl.answers.stated_confidence`), outside the answer tags: `Confidence: 80 %`. Not
here: how well stated confidence agrees with accuracy over a set (`vlrl.metrics.calibration`).
"""

from __future__ import annotations

from vlrl.answers.geometry import best_matching
from vlrl.answers.kind import BOX, BOXES, answer_kinds
from vlrl.answers.mathematics import is_formula
from vlrl.answers.stated_confidence import stated_confidence
from vlrl.answers.text import is_latex, is_number, number, reference_answers, reference_texts, without_full_stop
from vlrl.rewards.detection import both_sides
from vlrl.rewards.text import exact_match, math_equal, mcq, yes_no
from vlrl.schema import Sample, Score

TEXT_GRADERS = {"mcq": mcq, "yes_no": yes_no, "math_equal": math_equal, "exact_match": exact_match}


def text_grader(sample: Sample) -> str:
    """The reward that a question's answer asks for: `mcq` with choices, `yes_no`, `math_equal` for a number or a formula, else
    `exact_match`. Of several right answers all must be of that kind."""
    if sample.choices:
        return "mcq"
    texts = reference_texts(sample)
    if texts and all(without_full_stop(text) in ("yes", "no") for text in texts):
        return "yes_no"
    given = reference_answers(sample)
    if given and all(
        is_number(one) or number(str(one)) is not None or is_latex(str(one)) or is_formula(str(one)) for one in given
    ):
        return "math_equal"
    return "exact_match"


def calibrated_confidence(text: str, sample: Sample) -> Score:
    """y - (c - y)², in -1..1: y is 1 for a right answer, else 0, and c the stated confidence in 0..1.

    Right: of a short answer, what its kind's reward says (`text_grader`); of boxes, an F1 of 1 at IoU 0.5, which is what a
    calibration error counts as right. A model that is right with probability p earns most by stating c = p, and then p² on
    average: being right more often and saying how often both raise it. Without a confidence -1, as for a wrong answer that is
    said to be certain, so that leaving it out never pays, however badly the model knows itself yet.

    Source: the Brier rule (Brier 1950) beside being right, as in Damani et al., Beyond Binary Rewards (arXiv 2507.16806), for
    the aim of Leng et al., Taming Overconfidence in LLMs (ICLR 2025, arXiv 2410.09724). differs from the latter, whose PPO-C
    adds a term linear in c to a learned reward, so that 0 or 1 is best: where answers are verified the rule above is proper.
    """
    confidence = stated_confidence(text)
    right, why = _is_right(text, sample)
    if right is None:
        return Score(None, None, why)
    if confidence is None:
        return Score(-1.0, None, "no confidence between 0 and 1 is stated")
    y = float(right)
    value = y - (confidence - y) ** 2
    return Score(value, confidence, f"{'right' if right else 'not right'} with confidence {confidence:g}; {why}")


def _is_right(text: str, sample: Sample) -> tuple[bool | None, str]:
    """Whether the answer is right and why; None where that cannot be known of such a sample."""
    if answer_kinds(sample) & {BOX, BOXES}:
        sides = both_sides(text, sample)
        if isinstance(sides, Score):
            return sides.value == 1.0, sides.why
        n_found = len(best_matching(sides.predicted, sides.true, 0.5))
        return n_found == sides.n_pred == sides.n_true, f"{n_found} of {sides.n_true} boxes found, {sides.n_pred} predicted"
    score = TEXT_GRADERS[text_grader(sample)](text, sample)
    return (None if score.value is None else score.value >= 1), score.why
