"""`filter`: which strategy of `--keep_completions` fits a reward, by a run's completions and a gold that it was not paid."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vlrl.data.files import read_json_lines
from vlrl.data.name_values import nearest
from vlrl.metrics.policy_filtering import STRATEGIES, Filtering, StrategyNumbers, read_filtering, strategy_numbers
from vlrl.metrics.tables import text_table
from vlrl.schema import SampleError

GOLD = "gold"
"""The key under which a run with `--gold` writes each completion's."""
_Group = tuple[list[float], list[float]]


def show_filters(args: argparse.Namespace) -> int:
    """Print the R² between paid reward and gold of each strategy, the best first. Raises ValueError for a run without
    completions or without that gold."""
    config = read_run_config(args.folder)
    group = int(config["num_generations"])
    groups = read_groups(args.folder, args.gold, config.get("reward_weights"), group)
    filterings = [read_filtering(one) for one in args.keep] if args.keep else usual(group)
    too_many = next((one for one in filterings if one.n >= group), None)
    if too_many is not None:
        raise ValueError(f"--keep {too_many}: the run's groups have {group} completions; keep fewer")
    found = strategy_numbers(groups, [None, *filterings], args.seed)
    kept = sorted(found[1:], key=lambda one: -math.inf if one.r_squared is None else -one.r_squared)
    print(f"{args.folder}: {len(groups)} groups of {group} completions; gold: {args.gold or GOLD}")
    print(text_table(["--keep_completions", "n", "R²", "reward", "gold"], map(_cells, [found[0], *kept])))
    print("R²: of the straight line from reward to gold on what is kept (PF-PPO); the higher, the more the reward says there")
    print(args.folder)
    return 0


def usual(group: int) -> list[Filtering]:
    """Each strategy, with about half and a quarter of a group."""
    sizes = sorted({max(2, size // 2 * 2) for size in (group // 2, group // 4) if max(2, size // 2 * 2) < group}, reverse=True)
    return [Filtering(strategy, n) for n in sizes for strategy in STRATEGIES]


def read_run_config(folder: Path) -> Mapping[str, Any]:
    """What a run was set to. Raises SampleError for a folder that is no run of GRPO."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SampleError(f"{folder} is no run: {path} cannot be read: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(config, dict) or not isinstance(config.get("num_generations"), int):
        raise SampleError(f"{path} states no num_generations; name the folder of a run of GRPO")
    return config


def read_groups(folder: Path, gold: str | None, weights: Sequence[float] | None, size: int) -> list[_Group]:
    """Rewards as they were paid and golds of each group in `completions/`, NaN where there is none. Raises SampleError."""
    groups: list[_Group] = []
    for file in sorted((folder / "completions").glob("step_*.jsonl")):
        rows = list(read_json_lines(file))
        if len(rows) % size:
            raise SampleError(f"{file}: {len(rows)} completions are no whole groups of {size}")
        pairs = [_paid_and_gold(where, row, gold, weights) for where, row in rows]
        groups += [
            ([r for r, _ in some], [g for _, g in some]) for some in (pairs[i : i + size] for i in range(0, len(pairs), size))
        ]
    if not groups:
        raise SampleError(f"{folder}/completions holds no completions; name the folder of a run of GRPO")
    return groups


def _paid_and_gold(
    where: str, row: Mapping[str, Any], gold: str | None, weights: Sequence[float] | None
) -> tuple[float, float]:
    values = {name: one["value"] for name, one in row["rewards"].items()}
    factors = dict(zip(values, [*(weights or [1.0] * len(values)), *[0.0] * len(values)], strict=False))
    if gold is None and GOLD not in row:
        free = [name for name, factor in factors.items() if not factor]
        hint = f"name a reward of weight 0 by --gold ({', '.join(free)})" if free else "train with --gold NAME"
        raise SampleError(f"{where}: states no gold; {hint}")
    if gold is not None and gold not in values:
        raise SampleError(f"{where}: has no reward {gold!r}{nearest(gold, values)} (there are {', '.join(values)})")
    if gold is not None and factors[gold]:
        raise SampleError(
            f"--gold {gold}: the run was paid it (weight {factors[gold]:g}); a gold is one that nothing was trained on"
        )
    known = [(factors[name], value) for name, value in values.items() if value is not None and factors[name]]
    paid = math.fsum(factor * value for factor, value in known) if known else math.nan
    value = row[GOLD] if gold is None else values[gold]
    return paid, math.nan if value is None else float(value)


def _cells(one: StrategyNumbers) -> list[str]:
    r_squared = "N/A" if one.r_squared is None else f"{one.r_squared:.3f}"
    name = "all" if one.filtering is None else str(one.filtering)
    return [name, f"{one.n:,}", r_squared, f"{one.reward_mean:.3f}", f"{one.gold_mean:.3f}"]
