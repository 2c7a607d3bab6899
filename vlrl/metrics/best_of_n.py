"""The solutions of one item by one generator, graded: what a reward model chooses from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vlrl.data.best_of_n import Candidate, Item
from vlrl.metrics.answer_grading import Grade, grade
from vlrl.metrics.selection import Pick, best
from vlrl.rewards.step_aggregation import aggregate

Key = tuple[str, str, int]
StepScores = Mapping[Key, Sequence[float | None]]


@dataclass(frozen=True)
class Pool:
    """`candidates`: by index, the generator's greedy answer apart."""

    item: Item
    generator: str
    candidates: tuple[Candidate, ...]
    grades: tuple[Grade, ...]
    greedy: Grade | None = None

    @cached_property
    def correct(self) -> tuple[bool, ...]:
        return tuple(one.correct for one in self.grades)

    def values(self, scores: StepScores, how: str) -> list[float | None]:
        """The candidates' aggregated scores."""
        return [aggregate(scores.get(one.key, ()), how) for one in self.candidates]

    def pick(self, values: Sequence[float | None], indices: Sequence[int] | None = None) -> Pick:
        """The best of the candidates at these places (default: all) by their `values`; the pick's `indices` are places."""
        places = list(range(len(self.candidates))) if indices is None else list(indices)
        found = best([values[i] for i in places], [self.correct[i] for i in places])
        return Pick(found.accuracy, found.first_index, tuple(places[i] for i in found.indices))


def pools_of(items: Sequence[Item], candidates: Sequence[Candidate]) -> list[Pool]:
    """A pool for each item and generator that has candidates, generators in the order of their names."""
    by_place: dict[tuple[str, str], list[Candidate]] = {}
    for one in candidates:
        by_place.setdefault((one.generator, one.id), []).append(one)
    known = {item.id: item for item in items}
    order = {item.id: i for i, item in enumerate(items)}
    found = []
    for generator, key in sorted(by_place, key=lambda pair: (pair[0], order[pair[1]])):
        item = known[key]
        some = sorted(by_place[generator, key], key=lambda one: one.index)
        drawn = [one for one in some if not one.is_greedy]
        greedy = next((grade(one.response, item) for one in some if one.is_greedy), None)
        if drawn:
            grades = tuple(grade(one.response, item) for one in drawn)
            found.append(Pool(item, generator, tuple(drawn), grades, greedy))
    return found
