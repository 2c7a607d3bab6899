"""Numbers that flags take, as types of argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole_from(low: int) -> Callable[[str], int]:
    """A whole number of `low` or more."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} is not {low} or more")
        return value

    return whole_number


def above_0(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
