"""Which kinds of answers a sample has, by the shape of `sample.answer`: what decides whether a reward can score it."""

from __future__ import annotations

from collections.abc import Mapping

from vlrl.schema import Sample

BOXES, BOX, LABEL, PLAN, TEXT, GAME = "boxes", "box", "label", "plan", "text", "game"
KINDS = (BOXES, BOX, LABEL, PLAN, TEXT, GAME)


def answer_kinds(sample: Sample) -> frozenset[str]:
    """Some of `KINDS`, or none for an answer of another shape.

    "boxes": a list of `{"bbox_2d": ...}`, which may be empty. "box": one of them. "plan": `{"speed", "path"}`. "game": an
    object with an `env`. "text": a string, a number, or a list of them; one string is also a "label".
    """
    answer = sample.answer
    if isinstance(answer, Mapping):
        found = {kind for kind, key in ((BOX, "bbox_2d"), (GAME, "env")) if key in answer}
        return frozenset(found | ({PLAN} if set(answer) == {"speed", "path"} else set()))
    if isinstance(answer, list | tuple):
        if all(isinstance(item, Mapping) and "bbox_2d" in item for item in answer):
            return frozenset({BOXES})
        return frozenset({TEXT}) if all(map(_is_text, answer)) else frozenset()
    if isinstance(answer, str):
        return frozenset({LABEL, TEXT})
    return frozenset({TEXT}) if _is_text(answer) else frozenset()


def _is_text(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)
