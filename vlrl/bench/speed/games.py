"""`speed --what games`: steps a second of the card games' environments, each with its image."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import numpy as np

from vlrl.bench.speed.rewards import cpu_rate
from vlrl.envs import CardEnv
from vlrl.envs.cards import GAMES

N_STEPS = 2_000


def measure_games(args: argparse.Namespace) -> int:
    """Steps a second on one core (CPU time, median of five) of random play, deals included; every step draws its image."""
    rows: list[dict[str, Any]] = []
    for name in GAMES:
        env = CardEnv(name)
        actions = np.random.default_rng(0).integers(len(env.game.tokens), size=N_STEPS).tolist()
        rate = cpu_rate(partial(_play, env, actions), len(actions))
        rows.append({"what": env.game.env_id, "per_second": round(rate)})
        print(f"{env.game.env_id:58} {rate:10,.0f} steps/s", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(args.json)
    return 0


def _play(env: CardEnv, actions: list[int]) -> None:
    env.reset(seed=0)
    for seed, action in enumerate(actions):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset(seed=seed)
