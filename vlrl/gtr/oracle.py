"""The corrector that knows: it reads the state of the game (or a sample's right answer), judges a thought by rules and the
solver, and writes the right one. Offline and deterministic; privileged, so not the setting of the paper.

It never reads Blackjack's hole card.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlrl.envs.cards import own_rng, thought_fields, write_reply
from vlrl.envs.cards.replies import last_object
from vlrl.envs.cards.wording import word_thought
from vlrl.gtr.corrector import Correction, Request, SampleRequest, StepRequest
from vlrl.gtr.masks import thought_span

NOT_VALID = "the reply is not valid"
_WORDS = 1
"""What the draws of a wording are for."""


class OracleCorrector:
    """`see_action`: the action of the reply is judged too, not only the one its thought names. `solver=False` (an ablation):
    of the points games it knows the cards and the rules, but not which formulas are right; any that uses the cards will do.
    `correct_invalid`: a reply that is not valid is rewritten as one that is (not in GTR, where it is left alone).
    """

    tier = "oracle"
    privileged = True

    def __init__(self, see_action: bool = True, solver: bool = True, correct_invalid: bool = False) -> None:
        self.see_action, self.solver, self.correct_invalid = see_action, solver, correct_invalid

    def correct(self, request: Request) -> Correction:
        start = time.perf_counter()
        if isinstance(request, SampleRequest):
            found = _correct_sample(request, self.correct_invalid)
        else:
            found = self._correct_step(request)
        return replace(found, tier=self.tier, privileged=True, n_attempts=1, seconds=time.perf_counter() - start)

    def correct_many(self, requests: Sequence[Request]) -> list[Correction]:
        return [self.correct(request) for request in requests]

    def _correct_step(self, request: StepRequest) -> Correction:
        fields = thought_fields(request.completion, request.game, request.ended)
        if fields is None and not self.correct_invalid:
            return Correction("invalid", target=request.target, why=NOT_VALID)
        if not self.solver and request.game.formula(request.state) is not None:
            return _correct_without_solver(request, fields)
        game, state = request.game, request.state
        if game.lost(state):
            return Correction("unsolvable", why="no formula goes on from here")
        announced = None if fields is None else game.announced_formula(str(fields["thoughts"]))
        why = NOT_VALID if fields is None else game.problem(state, fields) or self._wrong_action(request)
        if why is None:
            return Correction("ok", target=request.target or (" ".join(announced) if announced else None))
        kept = tuple(request.target.split()) if request.target else None
        target = game.target_formula(state, (kept, announced))
        return _rewritten(request, game.move_towards(state, target), target, _rng(request), why)

    def _wrong_action(self, request: StepRequest) -> str | None:
        action = request.action
        if self.see_action and not (action and request.game.right(request.state, action)):
            return f"the action {action!r} is not right"
        return None


def _rng(request: StepRequest) -> np.random.Generator:
    return own_rng(request.seed, request.state.step, purpose=_WORDS)


def _rewritten(request: StepRequest, move: str, target: Sequence[str], rng: np.random.Generator, why: str) -> Correction:
    """A right thought that names `move`; the policy's own action is kept, whatever it is."""
    game, state = request.game, request.state
    found = last_object(request.completion)
    action = found[0].get("action", "") if found else ""
    fields = {**game.shown(state), "thoughts": word_thought(game, state, move, rng, target)}
    return Correction("corrected", text=write_reply(fields, action), target=" ".join(target) or None, why=why)


def _correct_without_solver(request: StepRequest, fields: dict[str, Any] | None) -> Correction:
    """Whether image and formula are stated right and some formula of the cards is headed for, whatever it equals."""
    game, state = request.game, request.state
    stated = None if fields is None else game.stated_formula(state, fields)
    if stated is not None:
        return Correction("ok", target=" ".join(stated))
    rng = _rng(request)
    formula = game.random_completion(state, rng)
    move = (*formula, "=")[len(game.formula(state) or ())]
    return _rewritten(request, move, formula, rng, "read or planned wrong")


# ---- single-turn samples


def _correct_sample(request: SampleRequest, correct_invalid: bool) -> Correction:
    """The thought of the task's own right completion, before the policy's own answer. A completion whose answer is right is
    taken to be thought right: the rules of a task judge answers alone."""
    span = thought_span(request.completion, "tags") if request.ended else None
    if span is None and not correct_invalid:
        return Correction("invalid", why="no thought between tags, or the completion did not end")
    if span is not None and request.is_right:
        return Correction("ok")
    right = request.task.reference(request.sample)
    known = thought_span(right, "tags")
    if known is None:
        return Correction("failed", why=f"the right completion of task {request.task.name} has no thought")
    if span is None:
        return Correction("corrected", text=right, why=NOT_VALID)
    start, end = span
    thought = right[known[0] : known[1]]
    if request.completion[start:end] == thought:
        return Correction("ok", why="the thought is the right one already")
    text = request.completion[:start] + thought + request.completion[end:]
    return Correction("corrected", text=text, why="the answer is wrong")
