"""Choosing one of N solutions: by a score, and by the rules every score is compared with. All accuracies are expectations.

A pick is uniform among equally good candidates, so `accuracy` is a share in 0..1 for a single item; `first_index` is what
taking the first of them gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

N_SUBSETS = 20
SIZES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Pick:
    """`indices`: the candidates that are equally good, in order."""

    accuracy: float
    first_index: float
    indices: tuple[int, ...]

    @property
    def is_tie(self) -> bool:
        return len(self.indices) > 1


def best(scores: Sequence[float | None], correct: Sequence[bool]) -> Pick:
    """The candidates with the highest score; one without a score loses to every one with. Raises ValueError."""
    if len(scores) != len(correct) or not scores:
        raise ValueError(f"{len(scores)} scores for {len(correct)} candidates; one each is needed, and at least one candidate")
    ranks = [-np.inf if score is None else score for score in scores]
    top = max(ranks)
    return _pick([i for i, rank in enumerate(ranks) if rank == top], correct)


def _pick(indices: Sequence[int], correct: Sequence[bool]) -> Pick:
    return Pick(sum(correct[i] for i in indices) / len(indices), float(correct[indices[0]]), tuple(indices))


def random_choice(correct: Sequence[bool]) -> float:
    return sum(correct) / len(correct)


def best_possible(correct: Sequence[bool]) -> float:
    return float(any(correct))


def majority(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """The most frequent answer, ties in expectation; candidates without an answer do not vote, and 0 if none has one."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    top = max(votes.values())
    firsts = [next(i for i, one in enumerate(answers) if one == answer) for answer, n in votes.items() if n == top]
    return sum(correct[i] for i in firsts) / len(firsts)


def baselines(
    answers: Sequence[Hashable | None], correct: Sequence[bool], n_chars: Sequence[int], n_steps: Sequence[int]
) -> dict[str, float]:
    """The rows printed beside every reward model, for one item."""
    return {
        "random": random_choice(correct),
        "majority": majority(answers, correct),
        "oracle": best_possible(correct),
        "first": float(correct[0]),
        "shortest": best([-n for n in n_chars], correct).accuracy,
        "longest": best(list(n_chars), correct).accuracy,
        "fewest_steps": best([-n for n in n_steps], correct).accuracy,
    }


def subsets(n_all: int, n: int, item: int, seed: int = 0) -> list[list[int]]:
    """`N_SUBSETS` random choices of `n` of `n_all` candidates for item number `item`; one, all of them, where n is n_all."""
    if n >= n_all:
        return [list(range(n_all))]
    rng = np.random.default_rng([seed, item, n_all, n])
    return [sorted(int(i) for i in rng.choice(n_all, size=n, replace=False)) for _ in range(N_SUBSETS)]


def headroom(accuracy: float, at_random: float, at_best: float) -> float | None:
    """The share of what can be won over a random choice that was won; None where nothing can be."""
    return None if at_best == at_random else (accuracy - at_random) / (at_best - at_random)
