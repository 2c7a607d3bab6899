"""Which beginnings of solutions are worth completing: Monte-Carlo estimates of every step, or a tree search of first errors.

Pure bookkeeping of one question: a search is a generator that yields the states that need completions and goes on once they
are there, so that the same completions give the same tree, also in a run that was stopped. Not here: who completes
(`vlrl.bench.engines`), what is written (`vlrl.bench.sample_steps`).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from vlrl.answers.steps import split_steps, step_starts

CHARACTERS_A_TOKEN = 4
"""Where nobody counted a completion's tokens."""


@dataclass(frozen=True)
class Attempt:
    """One completion of a state. `text`: the whole solution, the state's own beginning included; `truncated`: cut at the token
    limit, so that what is wrong with it is its length."""

    number: int
    text: str
    right: bool
    n_tokens: int | None = None
    truncated: bool = False


@dataclass
class Begun:
    """The beginning of a solution up to the end of a step; the first state is the question itself. `steps`: the text in steps;
    `n_wanted`: completions that it needs; `visits`: how often a search selected it, N(s)."""

    id: int
    text: str
    steps: tuple[str, ...]
    n_wanted: int
    rollouts: list[Attempt] = field(default_factory=list)
    visits: int = 0

    @property
    def value(self) -> float | None:
        """The Monte-Carlo estimate: the share of its completions that are right. None before there are any."""
        return sum(one.right for one in self.rollouts) / len(self.rollouts) if self.rollouts else None


@dataclass(frozen=True)
class FirstError:
    """What one binary search found: of which completion of which state, and the number of its first wrong step, from 1."""

    state: int
    number: int
    first_error: int
    step: str


@dataclass(frozen=True)
class SearchOptions:
    """`n`: completions of the question; `k`: of every other state; `most`: completions of a question in all.

    `alpha`, `beta`, `length_tokens`, `c_puct`: of the selection (Luo et al. 2024, section 3.3), with the paper's values.
    """

    n: int = 8
    k: int = 8
    most: int = 64
    alpha: float = 0.5
    beta: float = 0.9
    length_tokens: int = 500
    c_puct: float = 0.125
    exploration: float = 0.7
    """Of ReST-MCTS*'s selection."""


Search = Generator[list[Begun], None, None]


class Tree:
    """The states of one question by their texts. A beginning that two solutions share is one state, completed once."""

    def __init__(self, options: SearchOptions) -> None:
        self.options = options
        self.root = Begun(0, "", (), options.n)
        self.states: dict[str, Begun] = {"": self.root}
        self.found: list[FirstError] = []

    @property
    def n_completions(self) -> int:
        return sum(len(one.rollouts) for one in self.states.values())

    def has_room(self, n_states: int = 1) -> bool:
        """Whether so many more states may be completed."""
        return self.n_completions + n_states * self.options.k <= self.options.most

    def state_at(self, text: str, steps: Sequence[str]) -> Begun:
        """The state of a beginning, made where there is none."""
        if text not in self.states:
            self.states[text] = Begun(len(self.states), text, tuple(steps), self.options.k)
        return self.states[text]

    def parent_of(self, state: Begun) -> Begun | None:
        """The longest state that is a beginning of this one; None for the question itself."""
        before = [one for one in self.states.values() if one is not state and state.text.startswith(one.text)]
        return max(before, key=lambda one: len(one.text)) if state is not self.root else None


def solution_steps(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The steps of a solution, and where each begins in it (`step_starts`)."""
    steps = split_steps(text).steps
    return steps, step_starts(text, steps)


def monte_carlo(tree: Tree) -> Search:
    """Every step but the last of every completion of the question, as far as `most` goes (Math-Shepherd, Wang et al. 2024,
    section 3.2: k completions from each step). differs: a beginning that two solutions share is completed once."""
    yield [tree.root]
    for rollout in list(tree.root.rollouts):
        if rollout.truncated or not rollout.text.strip():
            continue
        steps, starts = solution_steps(rollout.text)
        asked: list[Begun] = []
        for i in range(1, len(steps)):
            if rollout.text[: starts[i]] not in tree.states and tree.has_room(len(asked) + 1):
                asked.append(tree.state_at(rollout.text[: starts[i]], steps[:i]))
        if asked:
            yield asked


def first_error(tree: Tree, begun: Begun, rollout: Attempt) -> Generator[list[Begun], None, int | None]:
    """The number, from 1, of the first step after which no completion is right, in a wrong completion of a state that has right
    ones; None where `most` ended the search. Binary search (Luo et al. 2024, section 3.2): as soon as a beginning has a right
    completion the error comes later. At most ceil(log2(n)) states are completed, n being the steps after `begun`."""
    steps, starts = solution_steps(rollout.text)
    low = max(i for i in range(len(steps)) if starts[i] <= len(begun.text))
    high = len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        state = tree.states.get(rollout.text[: starts[middle]])
        if state is None or state.value is None:
            if not tree.has_room():
                return None
            state = tree.state_at(rollout.text[: starts[middle]], steps[:middle])
            yield [state]
        low, high = (middle, high) if state.value else (low, middle)
    return high


def rollout_value(state_value: float, n_tokens: float, options: SearchOptions) -> float:
    """Q(s, r) = alpha^(1 - MC(s)) * beta^(len(r) / L): wrong completions of states that mostly succeed, the short ones first
    (Luo et al. 2024, equation 2)."""
    return float(options.alpha ** (1 - state_value) * options.beta ** (n_tokens / options.length_tokens))


def exploration(visits: int, all_visits: int, c_puct: float) -> float:
    """U(s) = c_puct * sqrt(sum of N) / (1 + N(s)) (Luo et al. 2024, equation 3)."""
    return c_puct * math.sqrt(all_visits) / (1 + visits)


def selected(states: Sequence[Begun], searched: set[tuple[int, int]], options: SearchOptions) -> tuple[Begun, Attempt] | None:
    """The state and the wrong completion of it with the largest Q + U, among states with 0 < MC < 1 and completions that were
    not searched; the first of equals. None where there is none."""
    all_visits = sum(one.visits for one in states)
    best: tuple[float, Begun, Attempt] | None = None
    for state in states:
        value = state.value
        if value is None or not 0 < value < 1:
            continue
        for rollout in state.rollouts:
            if rollout.right or rollout.truncated or not rollout.text.strip() or (state.id, rollout.number) in searched:
                continue
            characters = (len(rollout.text) - len(state.text)) / CHARACTERS_A_TOKEN
            n_tokens = characters if rollout.n_tokens is None else rollout.n_tokens
            score = rollout_value(value, n_tokens, options) + exploration(state.visits, all_visits, options.c_puct)
            if best is None or score > best[0]:
                best = (score, state, rollout)
    return None if best is None else best[1:]


def omegaprm(tree: Tree) -> Search:
    """Tree search of first errors (OmegaPRM, Luo et al. 2024, algorithm 1): select a wrong completion, find its first error by
    binary search, keep every state that was completed on the way, and go on until `most` completions are made or nothing is
    left to search. A question that is always or never answered has nothing to search."""
    yield [tree.root]
    searched: set[tuple[int, int]] = set()
    while (chosen := selected(list(tree.states.values()), searched, tree.options)) is not None:
        state, rollout = chosen
        searched.add((state.id, rollout.number))
        state.visits += 1
        error = yield from first_error(tree, state, rollout)
        if error is None:
            return
        tree.found.append(FirstError(state.id, rollout.number, error, solution_steps(rollout.text)[0][error - 1]))
