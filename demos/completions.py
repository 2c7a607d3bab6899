"""One completion, or a sampled group of them, as the page shows it: image with boxes, what was said, rewards, advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from demos import figures, matching, page, scoring
from demos.figures import Mark
from demos.matching import Compared
from demos.scoring import Scored
from vlrl.data.markup import Markup, joined, markup
from vlrl.schema import Sample, Task
from vlrl.tasks.evaluate import as_text

GROUP_LEGEND = (
    "T, solid green: ground truth. Number and advantage of a completion: solid blue where the advantage is above 0,"
    " dashed orange otherwise."
)


@dataclass(frozen=True)
class Drawn:
    """What is drawn on a sample's image, and what that is in words."""

    marks: Sequence[Mark]
    alt: str
    legend: str


def figure(task: Task, sample: Sample, text: str | None, opened: Image.Image | None = None) -> Markup:
    """The sample's images with its true boxes and those of a completion. `opened`: an uploaded image in their place. Raises
    ImageError, TaskError."""
    images, on = scoring.shown_images(sample, opened)
    compared = matching.compare(task, sample, text or "") if images else None
    if compared is not None and text is None:
        compared = Compared(compared.true, ())
    marks = [] if compared is None else matching.marks(compared)
    alt = f"{asked(sample)}{matching.described(compared)}"
    return figures.figure(images, alt, marks, on, matching.LEGEND if marks else "")


def asked(sample: Sample) -> str:
    """The question, as the beginning of an image's description."""
    return f"The image of the question: {sample.question}." if sample.question else "The image of a sample."


def said(text: str, sample: Sample, compared: Compared | None) -> Markup:
    """What a completion says: boxes found, thought, answer, and the reference answer where it is known."""
    thought, answer = scoring.parts(text, sample)
    shown = [] if compared is None else [page.verdict(_verdict(compared, sample))]
    if thought or answer:
        shown += [page.box("thought", thought, "none"), page.box("answer", answer, "none could be read")]
    else:
        shown.append(page.box("completion", text, "nothing was written"))
    if sample.answer is not None and compared is None:
        shown.append(page.box("reference answer", as_text(sample.answer)))
    return joined(shown)


def _verdict(compared: Compared, sample: Sample) -> str:
    if compared.predicted is not None and not compared.predicted:
        there = "" if compared.true is None else " That is right." if not compared.true else " That is wrong."
        return f"The model says that there is no {sample.question} in this image.{there}"
    return matching.headline(compared)


def group(task: Task, sample: Sample, texts: Sequence[str], scored: Sequence[Sequence[Scored]]) -> tuple[Drawn, Markup]:
    """All boxes of a group's completions, each with its advantage, and the completions in order."""
    totals = [scoring.total(one) for one in scored]
    advantages = scoring.advantages(totals)
    compared = [matching.compare(task, sample, text) for text in texts]
    first = compared[0]
    marks = [] if first is None else matching.marks(Compared(first.true, ()))
    for number, (one, advantage) in enumerate(zip(compared, advantages, strict=True), start=1):
        label = f"{number}" if advantage is None else f"{number} {advantage:+.2f}"
        kind: figures.Kind = "above" if advantage is not None and advantage > 0 else "predicted"
        marks += [Mark(box, label, kind) for box in (one.predicted if one else None) or ()]
    described = "; ".join(f"completion {i}: {matching.counted(one)}" for i, one in enumerate(compared, start=1) if one)
    alt = f"{asked(sample)} {len(texts)} completions. {described}"
    cards = [_card(*one) for one in zip(range(1, len(texts) + 1), texts, scored, totals, advantages, strict=True)]
    known = [total for total in totals if total is not None]
    same = page.note("All rewards are equal, so every advantage is 0: nothing would be learnt from this group.")
    equal = same if len(known) > 1 and max(known) - min(known) < 1e-9 else markup("")
    unknown = page.rewards([]) if not known else markup("")
    listed = markup("<ol class='vl-group' aria-label='Completions of the group'>{}</ol>", joined(cards))
    return Drawn(marks, alt, GROUP_LEGEND if marks else ""), equal + unknown + listed


def _card(number: int, text: str, scored: Sequence[Scored], total: float | None, advantage: float | None) -> Markup:
    """One completion: advantage, bars of its rewards, its text."""
    bars = [
        markup("<li>{}<span>{} {}</span></li>", page.bar(one), page.name(one.reward), f"{one.value:.3g}")
        for one in scored
        if one.value is not None
    ]
    summed = "" if total is None else f", rewards {total:.3g}"
    return markup(
        "<li class='vl-box'><h2>{} · advantage {}{}</h2><ul class='vl-bars'>{}</ul><span class='vl-text'>{}</span></li>",
        number, page.signed(advantage), summed, joined(bars), text or "(nothing was written)",
    )  # fmt: skip


def explained(text: str, sample: Sample, scored: Sequence[Scored], compared: Compared | None) -> Markup:
    """What was read in a text, step by step: thought, answer, and what the first reward made of it."""
    thought, answer = scoring.parts(text, sample)
    rows = [["thought", thought or "none"], ["answer, as written", answer or "none"]]
    rows.append(["answer, as read", scoring.parsed(scored, text, sample) or "none: no answer could be read"])
    if compared is not None and compared.predicted:
        boxes = "; ".join(
            f"P{i} {box.label or ''} {matching.corners(box)}" for i, box in enumerate(compared.predicted, start=1)
        )
        rows.append(["boxes in pixels of the image", boxes])
    if sample.answer is not None:
        rows.append(["reference answer", as_text(sample.answer) or "nothing is there"])
    found = page.table(["what was read", "text"], rows, title="what was read in the completion")
    return found if compared is None else page.verdict(matching.headline(compared)) + found
