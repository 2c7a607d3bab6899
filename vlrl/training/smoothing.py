"""The smoothed line of what a run has logged, for `curves.png` and the page. No library."""

from __future__ import annotations

import math
from collections.abc import Sequence

SMOOTHED_FROM = 20
"""Lines of fewer points are drawn as they are."""
SMOOTHING = 0.9
"""Weight of the past in the smoothed line: the exponential moving average, corrected for its start, as TensorBoard draws it."""


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average, as long as `values`; a value that is NaN stays out of it. The average so far is divided by
    1 - `SMOOTHING` ** n, so that the first values are not drawn towards 0 (Kingma & Ba, arXiv 1412.6980, section 3)."""
    found, average, n = [], 0.0, 0
    for value in values:
        if not math.isnan(value):
            average, n = SMOOTHING * average + (1 - SMOOTHING) * value, n + 1
        found.append(average / (1 - SMOOTHING**n) if n else math.nan)
    return found
