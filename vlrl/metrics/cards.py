"""Card games: success, return, length, legality and what is recognised, over whole episodes of the plain environment.

Returns of episodes that training cut short do not belong here: they are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from vlrl.envs.cards import Game, write_reply
from vlrl.envs.cards.deals import Deal
from vlrl.envs.cards.transcripts import PlayedTurn, Playthrough, Turn
from vlrl.metrics.accuracy import means
from vlrl.metrics.bootstrap import bootstrap_mean, bootstrap_ratio, wilson
from vlrl.schema import Metric, Row


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """One episode to its end. Counts are of steps. `n_recognised=None`: not measured. `n_open`: steps from which the game could
    still be won, `n_right`: those of them whose action was right. `solvable`, `pressed_equals`: of games with formulas alone;
    whether the deal can be won, and whether the formula was finished."""

    total: float
    n_steps: int
    n_legal: int
    n_valid: int
    n_recognised: int | None = None
    n_open: int | None = None
    n_right: int = 0
    solvable: bool | None = None
    pressed_equals: bool | None = None

    @property
    def won(self) -> bool:
        return self.total > 0


def card_metrics(rows: Sequence[EpisodeRow]) -> dict[str, Metric]:
    """Metrics by name.

    - "success": a return above 0 (Wilson's interval); with one move too many on the number line it is 0, a failure.
    - "return", "steps": means over episodes (bootstrap over episodes).
    - "legal", "valid", "recognised": shares of steps, whole episodes resampled; "right_moves": of the steps from which the game
      can still be won (in blackjack: all), those whose action keeps it so (in blackjack: is best against the open card).
    - "success_solvable": success among deals that can be won; "finished": episodes that pressed
      `=`; "solvable": deals that can be won, the bound of "success".
    """
    steps = [row.n_steps for row in rows]
    metrics = {
        "success": wilson(sum(row.won for row in rows), len(rows)),
        "return": bootstrap_mean([row.total for row in rows]),
        "steps": bootstrap_mean(steps),
        "legal": bootstrap_ratio([row.n_legal for row in rows], steps),
        "valid": bootstrap_ratio([row.n_valid for row in rows], steps),
    }
    read = [(row.n_recognised, row.n_steps) for row in rows if row.n_recognised is not None]
    if read:
        metrics["recognised"] = bootstrap_ratio([right for right, _ in read], [n_steps for _, n_steps in read])
    judged = [(row.n_right, row.n_open) for row in rows if row.n_open is not None]
    if judged:
        metrics["right_moves"] = bootstrap_ratio([right for right, _ in judged], [n_open for _, n_open in judged])
    known = [row for row in rows if row.solvable is not None]
    if known:
        winnable = [row for row in known if row.solvable]
        metrics["solvable"] = wilson(len(winnable), len(known))
        metrics["success_solvable"] = wilson(sum(row.won for row in winnable), len(winnable))
    asked = [row.pressed_equals for row in rows if row.pressed_equals is not None]
    if asked:
        metrics["finished"] = wilson(sum(asked), len(asked))
    return metrics


class Played(NamedTuple):
    """What the row of an episode adds."""

    episode: EpisodeRow
    deal: Deal


def game_metrics(rows: Sequence[Row]) -> dict[str, Metric]:
    """`card_metrics` of the episodes among the rows (those with `Played`), with `yardsticks` of their deals; of single states
    "single_step" (the action is right) and "single_step_recognised"."""
    played: list[Played] = [row.data for row in rows if row.data is not None]
    metrics = {}
    if played:
        metrics = {**card_metrics([one.episode for one in played]), **yardsticks([one.deal for one in played])}
    states = [row for row in rows if row.data is None]
    return metrics | means(states)


def yardsticks(deals: Sequence[Deal]) -> dict[str, Metric]:
    """What two players without eyes get on the same deals: "success_random" moves by chance, "success_oracle" sees the
    state and makes a best move (in blackjack that wins most on average, not always)."""
    found = {}
    for name, best in (("success_random", False), ("success_oracle", True)):
        n_won = 0
        for deal in deals:
            play = Playthrough(deal.game, deal.seed)
            while not play.done:
                play.step(Turn(write_reply({}, deal.game.best(play.state)) if best else ""))
            n_won += sum(turn.reward for turn in play.played) > 0
        found[name] = wilson(n_won, len(deals))
    return found


def episode_row(first: Any, game: Game, played: Sequence[PlayedTurn]) -> EpisodeRow:
    """An episode as it was played from the state `first`; one that is not over counts as no success."""
    total = sum(turn.reward for turn in played)
    over = bool(played) and played[-1].done
    still_open = list(takewhile(lambda turn: not game.lost(turn.state), played))
    return EpisodeRow(
        total=total if over else min(total, 0.0),
        n_steps=len(played),
        n_legal=sum(turn.action is not None for turn in played),
        n_valid=sum(turn.valid for turn in played),
        n_recognised=sum(bool(turn.recognised) for turn in played),
        n_open=len(still_open),
        n_right=sum(turn.action is not None and game.right(turn.state, turn.action) for turn in still_open),
        solvable=game.solvable(first),
        pressed_equals=None if game.formula(first) is None else bool(played) and played[-1].token == "=",
    )
