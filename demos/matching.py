"""Which predicted box belongs to which true one, in words, as a table and as marks on the image.

Pairs are made as the reward `iou_f1` makes them: same label, IoU of at least 0.5, greatest total. What is left is paired by
overlap, to show how near it was. Not here: the reward itself (`vlrl.rewards`), drawing (`demos.figures`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from demos import page
from demos.figures import Mark
from vlrl.answers.geometry import best_matching
from vlrl.data.markup import Markup, markup
from vlrl.schema import Box, Prediction, Sample, Task
from vlrl.tasks.evaluate import boxes_of

MIN_IOU = 0.5
MAX_PAIRED = 300
"""Boxes of a side that are paired; nobody looks at more."""
LEGEND = "T, solid green: ground truth. P, dashed orange: predicted."
MATCHED, LOW, OTHER = "matched", f"IoU below {MIN_IOU:g}: not matched", "another label: not matched"


@dataclass(frozen=True)
class Pair:
    """A predicted and a true box by their numbers, and why they count as matched or not."""

    predicted: int
    true: int
    iou: float
    why: str


@dataclass(frozen=True)
class Compared:
    """The boxes of one completion beside the true ones, in pixels of the image. `true=None`: they are not known;
    `predicted=None`: no boxes could be read."""

    true: Sequence[Box] | None
    predicted: Sequence[Box] | None
    pairs: Sequence[Pair] = ()

    @property
    def n_matched(self) -> int:
        return sum(pair.why == MATCHED for pair in self.pairs)


def compare(task: Task, sample: Sample, text: str) -> Compared | None:
    """The boxes of a completion beside those of the sample; None for a task or sample without boxes. Raises TaskError."""
    known = sample.answer not in (None, "")
    # A sample without an answer, as for an uploaded image, is read like one whose answer is no box.
    with_answer = sample if known else dataclasses.replace(sample, answer=[])
    found = boxes_of(task, with_answer, Prediction(sample.id, text, 0, truncated=False))
    if found is None:
        return None
    true, predicted = found
    return Compared(true if known else None, predicted, pairs_of(predicted or (), true if known else ()))


def pairs_of(predicted: Sequence[Box], true: Sequence[Box]) -> list[Pair]:
    """One-to-one pairs, best kind first: matched, the same label with a low IoU, another label."""
    found: list[Pair] = []
    for why, min_iou, by_label in ((MATCHED, MIN_IOU, True), (LOW, 0.0, True), (OTHER, 0.0, False)):
        used_p, used_t = {pair.predicted for pair in found}, {pair.true for pair in found}
        left_p = [i for i in range(min(len(predicted), MAX_PAIRED)) if i not in used_p]
        left_t = [j for j in range(min(len(true), MAX_PAIRED)) if j not in used_t]
        sides = [[boxes[k] for k in left] for boxes, left in ((predicted, left_p), (true, left_t))]
        if not by_label:
            sides = [[dataclasses.replace(box, label="") for box in side] for side in sides]
        for i, j, overlap in best_matching(sides[0], sides[1], min_iou):
            p, t = left_p[i], left_t[j]
            # A single object that is asked for has no label to differ in.
            same = predicted[p].label == true[t].label
            found.append(Pair(p, t, overlap, why if not same or by_label else MATCHED if overlap >= MIN_IOU else LOW))
    return found


def marks(compared: Compared) -> list[Mark]:
    """The boxes to draw, the true ones labelled T, the predicted ones P and their IoU."""
    of = {pair.predicted: pair for pair in compared.pairs}
    true = [Mark(box, f"T{j + 1} {box.label or ''}".strip(), "true") for j, box in enumerate(compared.true or ())]
    return [*true, *(Mark(box, _predicted_label(i, of.get(i), compared), "predicted") for i, box in _shown(compared))]


def _shown(compared: Compared) -> list[tuple[int, Box]]:
    return list(enumerate(compared.predicted or ()))


def _predicted_label(i: int, pair: Pair | None, compared: Compared) -> str:
    if compared.true is None:
        assert compared.predicted is not None
        return f"P{i + 1} {compared.predicted[i].label or ''}".strip()
    return f"P{i + 1} IoU {pair.iou:.2f}" if pair else f"P{i + 1} no match"


def described(compared: Compared | None) -> str:
    """The boxes in words, for those who do not see the image."""
    if compared is None:
        return ""
    parts = []
    if compared.true is not None:
        parts.append("True boxes: " + ("; ".join(f"T{j + 1} {_words(box)}" for j, box in enumerate(compared.true)) or "none"))
    if compared.predicted:
        of = {pair.predicted: pair for pair in compared.pairs}
        listed = (f"{_predicted_label(i, of.get(i), compared)} at {corners(box)}" for i, box in _shown(compared))
        parts.append("Predicted boxes: " + "; ".join(listed))
    return "".join(f" {part}." for part in parts)


def headline(compared: Compared) -> str:
    """One sentence: how many of the true boxes were found."""
    n = len(compared.predicted or ())
    predicted = f"{n} box{'' if n == 1 else 'es'} predicted"
    if compared.predicted is None:
        return "No boxes could be read from the answer."
    if compared.true is None:
        return f"{predicted}; the true boxes are not known."
    if not compared.true:
        return f"{predicted}; nothing is there to be found."
    return f"{predicted}, {compared.n_matched} of {len(compared.true)} true boxes matched."


def counted(compared: Compared) -> str:
    """Boxes and matches of a completion in a few words."""
    if compared.predicted is None:
        return "could not be read"
    matched = "" if compared.true is None else f", {compared.n_matched} matched"
    n = len(compared.predicted)
    return f"{n} {'box' if n == 1 else 'boxes'} predicted{matched}"


def table(compared: Compared) -> Markup:
    """A row a pair and a row a box without a partner."""
    if compared.true is None or (not compared.true and not compared.predicted):
        return markup("")
    predicted, true = compared.predicted or (), compared.true
    rows: list[list[str]] = []
    for pair in sorted(compared.pairs, key=lambda pair: pair.true):
        p, t = predicted[pair.predicted], true[pair.true]
        rows.append(
            [f"T{pair.true + 1} {_words(t)}", f"P{pair.predicted + 1} {_words(p)}", f"{pair.iou:.2f}", pair.why]
        )  # fmt: skip
    paired_p, paired_t = {pair.predicted for pair in compared.pairs}, {pair.true for pair in compared.pairs}
    rows += [[f"T{j + 1} {_words(box)}", "–", "0", "not found"] for j, box in enumerate(true) if j not in paired_t]
    rows += [["–", f"P{i + 1} {_words(box)}", "0", "nothing is there"] for i, box in enumerate(predicted) if i not in paired_p]
    return page.table(["ground truth", "predicted", "IoU", "result"], rows[:MAX_PAIRED], title="boxes and their IoU")


def corners(box: Box) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in box.xyxy) + "]"


def _words(box: Box) -> str:
    return f"{box.label or ''} {corners(box)}".strip()
