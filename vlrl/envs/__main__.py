"""Play a card game in the terminal: the cheapest check of rules and rewards.

python -m vlrl.envs points24 --seed 17
echo "4 * 6 * 1 * 1 =" | python -m vlrl.envs points24 --cards 4 6 1 1 --frames frames/
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from vlrl.envs.cards import GAMES, written
from vlrl.envs.environment import CardEnv
from vlrl.envs.faces import GLYPHS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vlrl.envs", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("game", choices=list(GAMES))
    parser.add_argument("--seed", type=int, help="which deal; a random one is drawn and printed without it")
    parser.add_argument("--cards", nargs="+", metavar="CARD", help="a deal of Points24 or EZPoints: A 2 .. 10 J Q K")
    parser.add_argument("--published", action="store_true", help="judge formulas as the published games do (exact=False)")
    parser.add_argument("--frames", type=Path, help="folder that gets the image of every step")
    args = parser.parse_args(argv)
    if args.game not in ("points24", "ezpoints") and (args.cards or args.published):
        parser.error(f"--cards and --published are for points24 and ezpoints, not {args.game}")
    options: dict[str, Any] = {"exact": False} if args.published else {}
    env = CardEnv(args.game, **options)
    seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    try:
        frame, _ = env.reset(seed=seed, options={"numbers": args.cards} if args.cards else None)
    except ValueError as error:
        parser.error(str(error))
    print(f"{env.game.env_id}, seed {seed}. Moves: {' '.join(env.game.tokens)}. Also: hint, quit.")
    play_in_terminal(env, frame, sys.stdin, args.frames)
    return 0


def play_in_terminal(env: CardEnv, frame: np.ndarray, lines: TextIO, folder: Path | None) -> float:
    """Plays until the game ends or the lines do, several moves a line allowed; returns the sum of rewards."""
    total, done, words = 0.0, False, moves(lines)
    while not done:
        _keep(frame, env, folder)
        print(f"\n{state_in_words(env)}")
        print("> ", end="", flush=True)
        word = next(words, "quit")
        if not lines.isatty():
            print(word)
        if word == "quit":
            print(f"Stopped with a return of {total:+g}.")
            return total
        if word == "hint":
            print("Right moves: " + (" ".join(env.game.good(env.state)) or "none, this deal is lost"))
            continue
        if word not in env.game.tokens:
            print(f"{word!r} is not a move; moves: {' '.join(env.game.tokens)}")
            continue
        frame, reward, terminated, truncated, _ = env.step(env.game.tokens.index(word))
        total, done = total + reward, terminated or truncated
        print(f"reward {reward:+g}")
    _keep(frame, env, folder)
    ending = "" if env.game.name != "blackjack" else f" Dealer: {_cards(env.state.dealer)}."
    print(f"The game is over.{ending} Return {total:+g}: {'won' if total > 0 else 'not won'}.")
    return total


def moves(lines: TextIO) -> Iterator[str]:
    """The words of all lines, as they come."""
    for line in lines:
        yield from line.split()


def state_in_words(env: CardEnv) -> str:
    """What the image shows, in words."""
    state = env.state
    if env.game.name == "numberline":
        return f"Target: {state.target}   Current: {state.current}"
    if env.game.name == "blackjack":
        return f"Dealer: {_cards(state.dealer[:1])} ?   Player: {_cards(state.player)}"
    return f"Cards: {_cards(state.cards)}   Formula: {written(state.formula)}"


def _cards(cards: Sequence[Any]) -> str:
    return " ".join(f"{GLYPHS[card.suit]}{card.face}" for card in cards)


def _keep(frame: np.ndarray, env: CardEnv, folder: Path | None) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(folder / f"{env.state.step:02d}.png")


if __name__ == "__main__":
    sys.exit(main())
