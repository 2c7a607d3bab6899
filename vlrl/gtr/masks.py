"""Which tokens of a completion are its thought: what may be imitated, and what weighs less in the policy term.

Everything works on the text spans of the actual token ids, never on re-tokenised text. The action (or answer) and all behind it
is never part of a thought; nor is a token that straddles the border.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from vlrl.answers.span import END_THINK, THINK
from vlrl.envs.cards.replies import key_position, last_object

IGNORED = -100
"""The label that cross-entropy skips."""
CharSpan = tuple[int, int]


class MaskError(ValueError):
    """A record with nothing to imitate, or whose mask would cover an action token: a bug, never data."""


def thought_span(text: str, layout: str = "json") -> CharSpan | None:
    """Characters of the thought, or None. "json": from the opening brace of the last object up to its `action` key.
    "tags": from `<think>` to `</think>`, both included. Raises ValueError for other layouts."""
    if layout == "json":
        found = last_object(text)
        at = None if found is None else key_position(text, found[1], "action")
        return None if found is None or at is None else (found[1], at)
    if layout != "tags":
        raise ValueError(f"layout={layout!r}: give json or tags")
    start, end = text.find(THINK), text.find(END_THINK)
    if start < 0 or end < start or text.count(THINK) != 1 or text.count(END_THINK) != 1:
        return None
    return (start, end + len(END_THINK))


def token_spans(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[CharSpan]:
    """The characters each token stands for in `decode(ids)`; a token that is only part of a character has an empty span at
    its place, the last part has the character.

    `decode` must keep special tokens and clean nothing up:
    `lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)`.
    """
    whole = decode(ids)
    pieces = [decode([token]) for token in ids]
    if "".join(pieces) == whole:
        ends = list(accumulate(map(len, pieces)))
    else:
        # Half a character may look finished, and then take it back.
        ends = list(accumulate((_common(decode(ids[: n + 1]), whole) for n in range(len(ids))), max))
    starts = [0, *ends][: len(ids)]
    return list(zip(starts, ends, strict=True))


def _common(beginning: str, whole: str) -> int:
    """How many characters of `beginning` are final: half a character decodes to a replacement sign."""
    if whole.startswith(beginning):
        return len(beginning)
    return next(n for n, (a, b) in enumerate(zip(beginning, whole + "\0" * len(beginning), strict=False)) if a != b)


def thought_mask(spans: Sequence[CharSpan], thought: CharSpan | None) -> list[bool]:
    """Per token: whether it lies wholly inside the thought. Without a thought (invalid format) all are False, so that all
    tokens weigh one."""
    if thought is None:
        return [False] * len(spans)
    start, end = thought
    # An empty span at the border is part of a character that follows, hence of the action.
    return [start <= a and b <= end and (a < b or b < end) for a, b in spans]


def completion_mask(ids: Sequence[int], decode: Callable[[Sequence[int]], str], layout: str = "json") -> list[bool]:
    """`thought_mask` of a completion's ids."""
    return thought_mask(token_spans(ids, decode), thought_span(decode(ids), layout))


def imitation_labels(
    prompt_ids: Sequence[int], target_ids: Sequence[int], decode: Callable[[Sequence[int]], str], layout: str = "json"
) -> list[int]:
    """Labels of prompt plus corrected completion: the ids of thought tokens, `IGNORED` elsewhere (prompt, action, all behind
    it). Raises MaskError where no token is left to imitate, or a label reaches into the action."""
    text = decode(target_ids)
    thought = thought_span(text, layout)
    if thought is None:
        raise MaskError(f"a corrected completion without a thought in the layout {layout!r}: {text!r:.200}")
    spans = token_spans(target_ids, decode)
    mask = thought_mask(spans, thought)
    if not any(mask):
        raise MaskError(f"no token lies inside the thought {text[slice(*thought)]!r:.200}")
    if any(kept and end > thought[1] for kept, (_, end) in zip(mask, spans, strict=True)):
        raise MaskError(f"the mask covers the action of {text!r:.200}")
    return [IGNORED] * len(prompt_ids) + [token if kept else IGNORED for token, kept in zip(target_ids, mask, strict=True)]


def token_weights(mask: Sequence[bool], thought_weight: float) -> list[float]:
    """Weights in the policy term: `thought_weight` on thought tokens, 1 on the rest. Raises ValueError outside 0..1."""
    if not 0 <= thought_weight <= 1:
        raise ValueError(f"thought_weight={thought_weight} is outside 0..1")
    return [thought_weight if is_thought else 1.0 for is_thought in mask]
