"""Episodes of card games that a run has logged, played again: from its held-out predictions or the completions of a step.

A log holds replies, no images: the deal is drawn again from its seed, which stands in `held_out.jsonl` or in the name of a deal
of the package. Not here: which folders are runs (`demos.runs`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from demos import runs
from demos.games import described, goal
from vlrl.data.images import open_image
from vlrl.data.synthetic.deals import game_sample
from vlrl.envs.cards import GAMES
from vlrl.envs.cards.deals import deal_of, episode_sample, state_sample
from vlrl.envs.cards.games import Game
from vlrl.envs.cards.transcripts import MAX_TURNS, PlayedTurn, Turn, read_transcript, replay

AFTER, BEFORE = "held-out, after training", "held-out, before training"
_FILES = {AFTER: "predictions_after.jsonl", BEFORE: "predictions_before.jsonl"}
_STEP = re.compile(r"step_([0-9]{1,9})\.jsonl")
_DRAWN = re.compile(rf"({'|'.join(GAMES)})-([a-z_]{{1,30}})-([0-9]{{1,9}})-([0-9]{{1,9}})")
"""The id of an episode that the package deals: game, split, seed, number."""
_TRUTH = re.compile(r"env ([\w./-]{1,60}), seed ([0-9]{1,18})")
MAX_EPISODES = 1000


class NoEpisodes(ValueError):
    """A log that cannot be played again; the message says why."""


@dataclass(frozen=True)
class Logged:
    """One episode of a log. `number`: which one of its deal, which decides the random moves for unreadable replies."""

    id: str
    rules: Game
    seed: int
    turns: Sequence[Turn]
    number: int = 0

    def played(self) -> list[PlayedTurn]:
        return replay(self.rules, self.seed, self.turns, self.number)


def logs(folder: Path) -> list[str]:
    """The logs of a run that may hold episodes: held-out predictions, then the steps, the latest first."""
    found = [words for words, name in _FILES.items() if runs.file_of(folder, name)]
    try:
        names = [match for path in (folder / "completions").iterdir() if (match := _STEP.fullmatch(path.name))]
    except OSError:
        names = []
    return [*found, *(f"step {number}" for number in sorted((int(match[1]) for match in names), reverse=True))]


def episodes(folder: Path, which: str) -> list[Logged]:
    """The episodes of one of `logs`. Raises NoEpisodes."""
    if which in _FILES:
        rows = runs.read_lines(runs.file_of(folder, _FILES[which]))
        found = _transcripts(rows, _truths(folder))
    elif which.startswith("step ") and which[5:].isdecimal():
        path = folder / "completions" / f"step_{int(which[5:]):06d}.jsonl"
        found = _steps(runs.read_lines(runs.file_of(folder, "completions", path.name)))
    else:
        found = []
    if not found:
        raise NoEpisodes("this log holds no episode of a card game whose deal is known; choose a run of a card game")
    return found[:MAX_EPISODES]


def _truths(folder: Path) -> dict[str, str]:
    rows = runs.read_lines(runs.file_of(folder, "held_out.jsonl"))
    return {str(row.get("id")): str(row.get("ground_truth")) for row in rows}


def _deal(identity: str, truth: str = "") -> tuple[Game, int] | None:
    """Game and seed of an episode, by what the run says of it or by its name; None where neither is known."""
    if stated := _TRUTH.fullmatch(truth):
        rules = next((game for game in GAMES.values() if game.env_id == stated[1]), None)
        return None if rules is None else (rules, int(stated[2]))
    if named := _DRAWN.fullmatch(identity):
        sample = game_sample(named[1], int(named[3]), named[2], int(named[4]))
        deal = deal_of(sample)
        return (deal.game, deal.seed) if deal.is_episode else None
    return None


def _transcripts(rows: Sequence[Mapping[str, Any]], truths: Mapping[str, str]) -> list[Logged]:
    found = []
    for row in rows[:MAX_EPISODES]:
        identity, turns = str(row.get("id")), read_transcript(str(row.get("completion")))
        deal = _deal(identity, truths.get(identity, "")) if turns else None
        if deal is not None and turns:
            found.append(Logged(identity, *deal, turns))
    return found


def _steps(rows: Sequence[Mapping[str, Any]]) -> list[Logged]:
    """Episodes of a training step, whose log has a row a reply: `name/0`, `name/1`, ... and the next episode from 0 again."""
    found: list[tuple[str, list[Turn]]] = []
    for row in rows:
        identity, _, t = str(row.get("id")).rpartition("/")
        completion = row.get("completion")
        if not t.isdecimal() or not isinstance(completion, str):
            continue
        if t == "0":
            found.append((identity, []))
        if found and found[-1][0] == identity and len(found[-1][1]) == int(t) < MAX_TURNS:
            found[-1][1].append(Turn(completion, ended=not row.get("truncated")))
    numbers: dict[str, int] = {}
    logged = []
    for identity, turns in found:
        number = numbers[identity] = numbers.get(identity, -1) + 1
        if (deal := _deal(identity)) is not None:
            logged.append(Logged(identity, *deal, turns, number))
    return logged


@dataclass(frozen=True)
class Moment:
    """One moment of a replay, before the move of number `at`; at the end, after the last."""

    image: Image.Image
    description: str
    goal: str
    status: str


def moment(logged: Logged, played: Sequence[PlayedTurn], at: int) -> Moment:
    """What the player saw at a step, and what it then wrote and played."""
    at = max(0, min(at, len(played) - 1))
    turn = played[at]
    moves = [one.token for one in played[:at]]
    sample = state_sample(episode_sample(logged.id, logged.rules.name, logged.rules, logged.seed), moves, good=False)
    how = "" if turn.action is not None else " (random: its action could not be read)"
    ends = f" The episode ends with a return of {sum(one.reward for one in played):+g}." if turn.done else ""
    status = f"Step {at + 1} of {len(played)}: it plays {turn.token}{how}, reward {turn.reward:+g}.{ends}"
    return Moment(
        open_image(sample.images[0]), described(logged.rules, turn.state), goal(logged.rules, turn.state), status
    )  # fmt: skip
