"""What a game that has no formula answers where the points games speak of theirs; see `vlrl.envs.cards.games.Game`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from vlrl.envs.cards.solver import Formula


class NoFormula:
    """Mixed into games whose states have no formula."""

    follows_target: ClassVar[bool] = False

    def formula(self, state: Any) -> Formula | None:
        return None

    def plan(self, state: Any) -> Formula | None:
        return None

    def solvable(self, state: Any) -> bool | None:
        return None

    def solutions(self, ranks: Sequence[str]) -> list[str]:
        return []

    def announced_formula(self, thought: str) -> Formula | None:
        return None

    def stated_formula(self, state: Any, fields: Any) -> Formula | None:
        return None

    def target_formula(self, state: Any, wanted: Sequence[Formula | None]) -> Formula:
        return ()

    def leaves_target(self, state: Any, target: str) -> bool:
        return False

    def random_formula(self, state: Any, rng: np.random.Generator) -> Formula:
        return ()

    def random_completion(self, state: Any, rng: np.random.Generator) -> Formula:
        return ()
