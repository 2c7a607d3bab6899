"""Whether thoughts collapse: how alike they are, whether they follow the image, and how many are valid, legal and corrected.

Pure functions over texts, and a window of the last thoughts. Templated corrections make thoughts alike by themselves: read
self-BLEU beside state sensitivity and recognition, never alone.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

WINDOW = 256
PROBES = 64
BLEU_SMOOTHING = 0.1
"""What a precision without a match has for numerator (Chen and Cherry's method 1)."""


def self_bleu2(thoughts: Sequence[str]) -> float:
    """How alike thoughts are, 0..1: the mean BLEU of each against all others, unigrams and bigrams weighing half each.

    Words are split at white space. Fewer than two thoughts give 1. Agrees with NLTK's `sentence_bleu` with smoothing
    method 1; linear in the total length.
    """
    if len(thoughts) < 2:
        return 1.0
    split = [thought.split() for thought in thoughts]
    lengths = Counter(map(len, split))
    clipped = [_matches_with_others([Counter(_ngrams(words, n)) for words in split]) for n in (1, 2)]
    total = 0.0
    for i, words in enumerate(split):
        if not clipped[0][i]:
            continue
        logs = 0.0
        for n, matches in enumerate(clipped, start=1):
            n_grams = max(1, len(words) - n + 1)
            logs += 0.5 * math.log((matches[i] or BLEU_SMOOTHING) / n_grams)
        closest = _closest_other_length(len(words), lengths)
        brevity = 1.0 if len(words) > closest else math.exp(1 - closest / len(words))
        total += brevity * math.exp(logs)
    return total / len(split)


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _matches_with_others(counts: list[Counter[tuple[str, ...]]]) -> list[int]:
    """For each thought: its n-grams, each counted at most as often as in the other thought that has it most."""
    most: dict[tuple[str, ...], tuple[int, int]] = {}  # the highest and second highest count of an n-gram
    for counted in counts:
        for gram, n in counted.items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (n, first) if n > first else (first, max(n, second))
    # Whoever has the highest count alone is held against the second; a tie leaves both at the same number.
    return [
        sum(min(n, most[gram][1] if n == most[gram][0] else most[gram][0]) for gram, n in counted.items()) for counted in counts
    ]


def _closest_other_length(own: int, lengths: Counter[int]) -> int:
    others = [length for length, n in lengths.items() if n > (length == own)]
    return min(others, key=lambda length: (abs(length - own), length))


def unique_share(thoughts: Sequence[str]) -> float:
    """Distinct thoughts, regardless of case and white space, per thought; 1 for none."""
    return len({" ".join(thought.lower().split()) for thought in thoughts}) / len(thoughts) if thoughts else 1.0


def length_quantiles(lengths: Sequence[int]) -> dict[str, float]:
    """Mean, 10th and 90th percentile; empty for none."""
    if not lengths:
        return {}
    low, high = np.percentile(lengths, [10, 90])
    return {"mean": float(np.mean(lengths)), "p10": float(low), "p90": float(high)}


def state_sensitivity(with_true: Sequence[str], with_swapped: Sequence[str]) -> float:
    """How much thoughts follow the image, 0..1: one minus the mean similarity of the thought about a state's own image and
    the thought about another state's image, with the same text prompt. Raises ValueError for none."""
    if not with_true:
        raise ValueError("sensitivity needs probe states")
    pairs = zip(with_true, with_swapped, strict=True)
    return 1 - sum(edit_similarity(a, b) for a, b in pairs) / len(with_true)


def edit_similarity(a: str, b: str) -> float:
    """1 minus the words to insert, delete and replace (Levenshtein) over the longer text's words; 1 for two empty texts."""
    first, second = a.split(), b.split()
    if not first or not second:
        return float(first == second)
    if first == second:
        return 1.0
    previous = list(range(len(second) + 1))
    for i, word in enumerate(first, start=1):
        row = [i]
        for j, other in enumerate(second, start=1):
            row.append(min(row[-1] + 1, previous[j] + 1, previous[j - 1] + (word != other)))
        previous = row
    return 1 - previous[-1] / max(len(first), len(second))


def swapped(n: int) -> list[int]:
    """Which probe's image each of `n` probes is shown instead of its own: the next one's. Raises ValueError for one."""
    if n < 2:
        raise ValueError(f"{n} probe states cannot swap images; use two or more (default {PROBES})")
    return [(i + 1) % n for i in range(n)]


@dataclass(frozen=True, slots=True)
class StepNote:
    """What diagnostics keep of one step. `thought=None`: invalid. `recognised=None`: not measured."""

    thought: str | None
    n_thought_tokens: int = 0
    n_tokens: int = 0
    status: str = "ok"
    legal: bool = True
    recognised: bool | None = None


@dataclass
class Window:
    """Steps since the last report, and the last `size` valid thoughts."""

    size: int = WINDOW
    thoughts: deque[StepNote] = field(init=False)
    steps: list[StepNote] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thoughts = deque(maxlen=self.size)

    def add(self, note: StepNote) -> None:
        self.steps.append(note)
        if note.thought is not None:
            self.thoughts.append(note)

    def report(self) -> dict[str, float]:
        """Metrics by name, and the end of this interval. Shares are of the interval's steps, thoughts of the window's."""
        found: dict[str, float] = {}
        texts = [note.thought for note in self.thoughts if note.thought is not None]
        if texts:
            found |= {"self_bleu2": self_bleu2(texts), "unique_thoughts": unique_share(texts)}
            quantiles = length_quantiles([note.n_thought_tokens for note in self.thoughts])
            found |= {f"thought_tokens_{name}": value for name, value in quantiles.items()}
        found |= rates(self.steps)
        self.steps = []
        return found

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"thoughts": [asdict(note) for note in self.thoughts], "steps": [asdict(note) for note in self.steps]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.thoughts = deque((StepNote(**note) for note in state["thoughts"]), maxlen=self.size)
        self.steps = [StepNote(**note) for note in state["steps"]]


def rates(steps: Sequence[StepNote]) -> dict[str, float]:
    """Shares of valid, legal, corrected, unsolvable and failed steps, of recognised states where measured, and mean length."""
    if not steps:
        return {}
    n = len(steps)
    found = {
        "valid": sum(note.thought is not None for note in steps) / n,
        "legal": sum(note.legal for note in steps) / n,
        "response_tokens_mean": sum(note.n_tokens for note in steps) / n,
    }
    found |= {status: sum(note.status == status for note in steps) / n for status in ("corrected", "unsolvable", "failed")}
    measured = [note.recognised for note in steps if note.recognised is not None]
    return found | ({"recognised": sum(measured) / len(measured)} if measured else {})


@dataclass(frozen=True, slots=True)
class CollapseRule:
    """When a run is called collapsed, compared with its first report. Thresholds are ours, to be printed beside the verdict."""

    bleu_rise: float = 0.2
    bleu_above: float = 0.8
    sensitivity_below: float = 0.1
    recognition_kept: float = 0.5

    def why(self, first: Mapping[str, float], now: Mapping[str, float]) -> str | None:
        """Why the run counts as collapsed, or None. Needs self-BLEU-2 high, and risen where it was not high from the start (as
        templates are), and sensitivity low or recognition gone; what was not measured speaks for no collapse."""
        before, after = first.get("self_bleu2"), now.get("self_bleu2")
        if before is None or after is None or after <= self.bleu_above:
            return None
        if before <= self.bleu_above and after - before <= self.bleu_rise:
            return None
        alike = f"self-BLEU-2 {'stayed at' if before > self.bleu_above else f'rose from {before:.2f} to'} {after:.2f}"
        sensitivity = now.get("sensitivity")
        if sensitivity is not None and sensitivity < self.sensitivity_below:
            return f"{alike} and thoughts ignore the image (sensitivity {sensitivity:.2f})"
        known, kept = first.get("recognised"), now.get("recognised")
        if known and kept is not None and kept < self.recognition_kept * known:
            return f"{alike} and recognition fell from {known:.2f} to {kept:.2f}"
        return None


ThoughtsFor = Callable[[Sequence[int]], list[str]]
"""Image number of each probe -> the greedy thoughts."""


def probe_sensitivity(thoughts_for: ThoughtsFor, n_probes: int = PROBES) -> float:
    """`state_sensitivity` of a policy that writes greedy thoughts about probes: their own images, then swapped ones."""
    return state_sensitivity(thoughts_for(list(range(n_probes))), thoughts_for(swapped(n_probes)))
