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

from vlrl.envs.cards import Game, own_rng, thought_fields, write_reply, written
from vlrl.envs.cards.blackjack import BlackjackGame
from vlrl.envs.cards.formula import BLANK
from vlrl.envs.cards.points import PointsGame, PointsState
from vlrl.envs.cards.replies import last_object
from vlrl.envs.cards.wording import pick, word_thought
from vlrl.gtr import claims
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
        seen = request.action if self.see_action else None
        if isinstance(request.game, PointsGame):
            if not self.solver:
                return _correct_without_solver(request, request.game, fields)
            return _correct_points(request, request.game, fields, seen if self.see_action else "")
        why = (
            NOT_VALID if fields is None else _problem(request.game, request.state, fields) or self._wrong_action(request, seen)
        )
        if why is None:
            return Correction("ok")
        move, rng = request.game.best(request.state), _rng(request)
        thoughts = word_thought(request.game, request.state, move, rng)
        return _rewritten(request, {**request.game.shown(request.state), "thoughts": thoughts}, None, why)

    def _wrong_action(self, request: StepRequest, action: str | None) -> str | None:
        if self.see_action and not (action and request.game.right(request.state, action)):
            return f"the action {action!r} is not right"
        return None


def _rng(request: StepRequest) -> np.random.Generator:
    return own_rng(request.seed, request.state.step, purpose=_WORDS)


def _rewritten(request: StepRequest, fields: dict[str, Any], target: str | None, why: str) -> Correction:
    """The policy's own action is kept, whatever it is."""
    found = last_object(request.completion)
    action = found[0].get("action", "") if found else ""
    return Correction("corrected", text=write_reply(fields, action), target=target, why=why)


# ---- Points24 and EZPoints


def _correct_points(request: StepRequest, game: PointsGame, fields: dict[str, Any] | None, action: str | None) -> Correction:
    """`fields=None`: the reply is not valid. `action=""`: it is not looked at."""
    state: PointsState = request.state
    complete = game.right(state, "=")
    possible = game.completions(state)
    if not possible and not complete:
        return Correction("unsolvable", why="no formula goes on from here")
    announced = None if fields is None else claims.announced_formula(str(fields["thoughts"]), game.n_cards)
    why = NOT_VALID if fields is None else _points_problem(game, state, fields, announced)
    if why is None and action != "" and (action is None or not game.right(state, action)):
        why = f"the action {action!r} is not right"
    if why is None:
        return Correction("ok", target=request.target or (" ".join(announced) if announced else None))
    target = _target(request, game, announced)
    entries = [entry for entry in state.formula if entry != BLANK]
    move = "=" if complete else target[len(entries)]
    thoughts = word_thought(game, state, move, _rng(request), target)
    return _rewritten(request, {**game.shown(state), "thoughts": thoughts}, " ".join(target), why)


def _points_problem(
    game: PointsGame, state: PointsState, fields: dict[str, Any], announced: tuple[str, ...] | None
) -> str | None:
    if not game.recognised(fields, state):
        return f"the cards are {[card.face for card in state.cards]}, not {fields.get('cards')!r:.60}"
    if "".join(str(fields["formula"]).split()) != "".join(written(state.formula).split()):
        return f"the formula is {written(state.formula)!r}, not {fields['formula']!r:.60}"
    if announced is not None and not _leads_on(game, state, announced):
        return f"the formula it is heading for, {' '.join(announced)!r:.80}, is not right"
    named = claims.next_token(str(fields["thoughts"]))
    if named is None:
        return "no next token is named"
    if not game.right(state, named):
        return f"the next token is not {named!r}"
    entries = [entry for entry in state.formula if entry != BLANK]
    if announced is not None and (*entries, named) != announced[: len(entries) + 1] and named != "=":
        return f"{named!r} is not how {' '.join(announced)!r:.80} goes on"
    return None


def _leads_on(game: PointsGame, state: PointsState, formula: tuple[str, ...]) -> bool:
    """Whether a whole formula uses the cards, equals the goal and goes on from the state's."""
    numbers = sorted(int(token) for token in formula if token.isdecimal())
    entries = tuple(entry for entry in state.formula if entry != BLANK)
    fits = len(formula) - len(entries) <= game.max_entries - len(state.formula)
    return numbers == sorted(state.numbers) and formula[: len(entries)] == entries and fits and game.reaches(formula)


def _target(request: StepRequest, game: PointsGame, announced: tuple[str, ...] | None) -> tuple[str, ...]:
    """The formula to head for: the episode's while it is possible, else the thought's, else the game's own plan."""
    kept = tuple(request.target.split()) if request.target else None
    for formula in (kept, announced):
        if formula is not None and _leads_on(game, request.state, formula):
            return formula
    # Without a plan the formula is complete, and right only by Python's reading.
    return game.plan(request.state) or tuple(entry for entry in request.state.formula if entry != BLANK)


def _correct_without_solver(request: StepRequest, game: PointsGame, fields: dict[str, Any] | None) -> Correction:
    """Whether cards and formula are stated right and some formula of the cards is headed for, whatever it equals."""
    state: PointsState = request.state
    entries = tuple(entry for entry in state.formula if entry != BLANK)
    found = None if fields is None else _headed_for(game, state, fields, entries)
    if found is not None:
        return Correction("ok", target=" ".join(found))
    rng = _rng(request)
    formula = list(entries)
    for number in rng.permutation(list(state.left.elements())):
        if formula and (formula[-1].isdecimal() or formula[-1] == ")"):
            formula.append(pick(rng, game.operators))
        formula.append(str(number))
    formula += [")"] * max(0, formula.count("(") - formula.count(")"))
    move = (*formula, "=")[len(entries)]
    thoughts = word_thought(game, state, move, rng, formula)
    return _rewritten(request, {**game.shown(state), "thoughts": thoughts}, " ".join(formula), "read or planned wrong")


def _headed_for(
    game: PointsGame, state: PointsState, fields: dict[str, Any], entries: tuple[str, ...]
) -> tuple[str, ...] | None:
    """The formula of the cards that a thought states rightly and goes on with, whatever it equals; None for other thoughts."""
    announced = claims.announced_formula(str(fields["thoughts"]), game.n_cards)
    stated = game.recognised(fields, state) and "".join(str(fields["formula"]).split()) == "".join(entries)
    if announced is None or not stated or sorted(t for t in announced if t.isdecimal()) != sorted(map(str, state.numbers)):
        return None
    going_on = (*announced, "=")
    goes_on = going_on[: len(entries)] == entries and claims.next_token(str(fields["thoughts"])) == going_on[len(entries)]
    return announced if goes_on else None


# ---- NumberLine and Blackjack


def _problem(game: Game, state: Any, fields: dict[str, Any]) -> str | None:
    thoughts = str(fields["thoughts"])
    if not game.recognised(fields, state):
        return "the state is not stated, or wrongly"
    if isinstance(game, BlackjackGame) and claims.dealer_value(thoughts) not in (None, state.up_card.value):
        return f"the dealer shows {state.up_card.face}"
    named = claims.named_move(thoughts, game)
    if named is None:
        return "no move is named"
    return None if game.right(state, named) else f"{named!r} is not right"


# ---- single-turn samples


def _correct_sample(request: SampleRequest, correct_invalid: bool) -> Correction:
    """The thought of the task's own right completion, before the policy's own answer. A completion whose answer is right is
    taken to be thought right: the rules of a task judge answers alone."""
    span = thought_span(request.completion, "tags") if request.ended else None
    if span is None and not correct_invalid:
        return Correction("invalid", why="no thought between tags, or the completion did not end")
    if span is not None and request.is_right:
        return Correction("ok")
    right = request.task.oracle(request.sample)
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
