"""AlphaDrive's rewards on driving plans, over a group: the right word, how much it matters, how often the group names it.

Source: AlphaDrive (arXiv 2503.07608). `variant="paper"` is its formula as known second-hand (the frequency is our reading);
`"released"` is its published code, defects included, to reproduce a run. Both use the released weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from vlrl.answers.plans import PATHS, SPEEDS, Plan, read_plan, true_plans
from vlrl.answers.read import read_span
from vlrl.answers.span import ANSWER, END_ANSWER, END_THINK, THINK, is_in_format
from vlrl.schema import Sample, Score

PlanVariant = Literal["paper", "released"]
WEIGHTS = {"KEEP": 0.8, "ACCELERATE": 0.9, "DECELERATE": 1.0, "STOP": 1.0}
WEIGHTS |= {"STRAIGHT": 0.8, "RIGHT_CHANGE": 1.0, "LEFT_CHANGE": 1.0, "RIGHT_TURN": 1.0, "LEFT_TURN": 1.0}
MAX_CUT = 0.2
"""How much of the paper's reward sameness can take away."""
_EPSILON = 1e-6
_JOINT = re.compile(r"</think>\s*<answer>")


def alphadrive_speed(texts: Sequence[str], samples: Sequence[Sample], *, variant: PlanVariant = "paper") -> list[Score]:
    """The speed words of a group: F1 * weight * (1 - min(0.2, k/G)), in 0..1 (`released`: F1 * weight +- 0.4, -0.4..1.4).

    F1 of the set of words named against the true one; weight: mean over the words named; k of G completions name the same
    set. No answer is 0. Reader: `vlrl.answers.plans.plan_words`. differs (paper against released): any case, any of comma,
    semicolon, full stop and line break between words, JSON and "Speed: KEEP"; no bonus for being first or for text that cannot
    be read.
    """
    return _score(texts, samples, "speed", SPEEDS, variant)


def alphadrive_path(texts: Sequence[str], samples: Sequence[Sample], *, variant: PlanVariant = "paper") -> list[Score]:
    """As `alphadrive_speed`, over the path words."""
    return _score(texts, samples, "path", PATHS, variant)


def _score(
    texts: Sequence[str], samples: Sequence[Sample], key: str, words: Sequence[str], variant: PlanVariant
) -> list[Score]:
    if variant == "released":
        true_words = [sample.answer[key] for sample in samples]
        return _released([[word for word in _released_words(text) if word in words] for text in texts], true_words)
    named: list[frozenset[str] | str] = []
    true_words = []
    for text, sample in zip(texts, samples, strict=True):
        plan, why = read_plan(text, sample)
        true_words.append(_nearest(plan, sample)[0 if key == "speed" else 1])
        found = frozenset[str]() if plan is None else plan.speeds if key == "speed" else plan.paths
        named.append(found or why or f"no {key} word")
    counts = Counter(words for words in named if not isinstance(words, str))
    return [_paper(words, true, counts, len(texts)) for words, true in zip(named, true_words, strict=True)]


def _nearest(plan: Plan | None, sample: Sample) -> tuple[str, str]:
    """Of several right plans the one that an answer agrees with most, so that halves of two right plans are not one."""
    plans = true_plans(sample)
    return plans[0] if plan is None else max(plans, key=lambda one: (one[0] in plan.speeds) + (one[1] in plan.paths))


def _paper(words: frozenset[str] | str, true: str, counts: Counter[frozenset[str]], n_group: int) -> Score:
    if isinstance(words, str):
        return Score(0.0, None, words)
    f1 = 2 / (len(words) + 1) if true in words else 0.0
    weight = sum(WEIGHTS[word] for word in sorted(words)) / len(words)  # in one order, or the last bit changes
    same = counts[words]
    cut = min(MAX_CUT, same / n_group)
    why = f"F1 {f1:.3f} against {true}, weight {weight:.2f}, named by {same} of {n_group}"
    return Score(f1 * weight * (1 - cut), sorted(words), why)


def _released_words(text: str) -> list[str]:
    """Words as the release splits them: the answer tag on one line, else all text without tags, at comma and space."""
    inside = _on_one_line(text)
    for tag in (THINK, END_THINK, ANSWER, END_ANSWER):
        inside = inside.replace(tag, "")
    return list(dict.fromkeys(inside.strip().split(", ")))


def _on_one_line(text: str) -> str:
    """What stands between the first answer tag that is closed on its own line and that closing tag, else the whole text. One
    pass: a search for the pattern goes over the rest of the line again from every opening tag."""
    start = text.find(ANSWER)
    while start >= 0:
        start += len(ANSWER)
        end = text.find(END_ANSWER, start)
        if end < 0:
            return text
        line_end = text.rfind("\n", start, end)
        if line_end < 0:
            return text[start:end]
        start = text.find(ANSWER, line_end)
    return text


def _released(named: Sequence[Sequence[str]], true_words: Sequence[str]) -> list[Score]:
    scores = []
    seen: set[str] = set()
    for words, true in zip(named, true_words, strict=True):
        hits = float(true in words)
        precision, recall = hits / (len(words) + _EPSILON), hits / (1 + _EPSILON)
        f1 = 2 * precision * recall / (precision + recall + _EPSILON)
        weight = sum(WEIGHTS[word] for word in words) / (len(words) + _EPSILON)
        new = not seen.intersection(words)
        seen.update(words)
        why = f"F1 {f1:.3f} against {true}, weight {weight:.2f}, {'first' if new else 'not first'} to name it"
        scores.append(Score(f1 * weight + (0.4 if new else -0.4), list(words) or None, why))
    return scores


def plan_diversity(texts: Sequence[str], samples: Sequence[Sample]) -> list[Score]:
    """How many different plans a group names, (different - 1) / (G - 1), in 0..1; None for a group of one.

    The same for all of a group that can be read, so it moves no weight: a number to watch (`--reward_weights ... 0`), beside
    the share that sameness takes from `alphadrive_speed` and `alphadrive_path`. Ours.
    """
    if len(texts) < 2:
        return [Score(None, None, "a group of one") for _ in texts]
    plans = []
    for text, sample in zip(texts, samples, strict=True):
        plan, why = read_plan(text, sample)
        words = None if plan is None else (plan.speed, plan.path)
        plans.append((None, why or "no single plan") if words is None or None in words else (words, ""))
    n_different = len({words for words, _ in plans if words is not None})
    share = max(0, n_different - 1) / (len(texts) - 1)
    why = f"{n_different} different plans in {len(texts)}"
    return [Score(0.0, None, problem) if words is None else Score(share, list(words), why) for words, problem in plans]


def alphadrive_format(text: str, sample: Sample, *, variant: PlanVariant = "paper") -> Score:
    """1 if the whole text is thought and answer in tags, each once (`released`: unstripped, repeats allowed), else 0.

    A sample with another `meta.answer_format` is held to that one in the paper form.
    """
    if variant == "released":
        right = text.startswith(THINK) and text.endswith(END_ANSWER) and _has_joint(text)
        return Score(float(right), text[:40] or None, "think, then answer" if right else "not think, then answer")
    wanted = str(sample.facts.get("answer_format", "think_answer"))
    right = is_in_format(text, wanted)
    return Score(float(right), wanted if right else read_span(text, sample).text, "strict form" if right else f"not {wanted}")


def _has_joint(text: str) -> bool:
    last = len(text) - len(END_ANSWER)
    return any(len(THINK) <= joint.start() and joint.end() <= last for joint in _JOINT.finditer(text))
