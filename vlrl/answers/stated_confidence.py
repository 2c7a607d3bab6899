"""The confidence that a completion states of itself.

In words, `<confidence>0.8</confidence>` or "Confidence: 80 %", outside the answer tags or in them; of several statements the
last counts. Confidences of single boxes (`position_confidence`) are not looked at.
"""

from __future__ import annotations

import re

_NUMBER = r"(?P<{0}>\d{{1,3}}(?:\.\d{{1,6}})?|\.\d{{1,6}})\s*(?P<{0}_percent>%)?"
_STATED = re.compile(
    rf"<confidence>\s*{_NUMBER.format('tagged')}\s*</confidence>"
    rf"|\bconfidence\b\s*(?:is|of|[:=])?\s*{_NUMBER.format('plain')}(?![\d.]*\d)",
    re.IGNORECASE,
)


def stated_confidence(text: str) -> float | None:
    """The confidence a completion states, in 0..1, or None: none, or a number beyond 1 without a per cent sign."""
    value: float | None = None
    for match in _STATED.finditer(text):
        name = "tagged" if match["tagged"] is not None else "plain"
        number = float(match[name]) / (100 if match[f"{name}_percent"] else 1)
        value = number if 0 <= number <= 1 else None
    return value
