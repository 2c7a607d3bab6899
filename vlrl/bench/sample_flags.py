"""The flags of `vlrl bench sample`, each checked against the others before anything is loaded."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from vlrl.bench.flag_types import whole_from
from vlrl.schema import ANSWER_FORMATS, COORDS

WRITES = ("sft", "preferences", "step_values")
SEARCH_METHODS = ("monte_carlo", "omegaprm", "rest_mcts")
ESTIMATES = ("soft", "hard")
NEGATIVES = ("none", "oreal")
PAIR_CHOICES = ("best_worst", "nearest")
OF_WRITE: dict[str, dict[str, Any]] = {
    "sft": {"best": 1, "min_score": None, "negatives": "none", "negative_weight": 1.0},
    "preferences": {"pairs": 1, "pair_choice": "best_worst", "min_margin": 0.0, "spans": False},
    "step_values": {
        "method": "monte_carlo",
        "k": 8,
        "max_completions": 64,
        "estimate": "soft",
        "alpha": 0.5,
        "beta": 0.9,
        "length_tokens": 500,
        "c_puct": 0.125,
        "exploration": 0.7,
    },
}
"""What is written -> the flags that only it has, and their defaults."""
OF_METHOD = {"omegaprm": ("alpha", "beta", "length_tokens", "c_puct"), "rest_mcts": ("exploration",)}
"""The flags that only one method has."""
JUDGED = "right_at"
"""A flag of what must know which completions are right: step values, and negatives."""


def add_sample_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of data, sampling and writing; those of what answers are `bench run`'s."""
    add = parser.add_argument
    add("--task", required=True, help="detection, qa, ... (several: a,b), or path/to/my_task.py")
    add("--data", type=Path, help="samples, ours or other projects' (a,b: several; default: drawn ones, split train)")
    add("--image_root", type=Path, help="folder that image paths are relative to")
    add("--limit", type=whole_from(1), help="at most this many samples, drawn by --seed")
    add("--seed", type=int, default=0, help="seed of the sampling, of drawn samples and of tiny-random")
    add("--coords", choices=COORDS, help="coordinate convention of boxes (default: the model's)")
    add("--answer_format", choices=ANSWER_FORMATS, help="answer format of samples that do not state one")
    add("--output_path", required=True, type=Path, metavar="DIR", help="folder of completions.jsonl and of what is written")
    add("--n", type=whole_from(1), default=8, help="completions of each row (8)")
    add("--rewards", nargs="+", metavar="REWARD", help="what scores them, NAME[:option=value,...] (default: the task's)")
    add("--reward_weights", nargs="+", type=float, metavar="W", help="weights in the order of the rewards (default: 1)")
    add("--right_at", type=float, metavar="X", help="a completion is right where its first reward is X or more (its highest)")
    add("--write", nargs="+", choices=WRITES, default=[], help="also write these rows, for `vlrl train`")
    own = OF_WRITE["sft"]
    add = parser.add_argument_group("--write sft").add_argument
    add("--best", type=whole_from(1), help="completions of each row to imitate, by score (1)")
    add("--min_score", type=float, metavar="X", help="only completions with this score or more (default: any)")
    add("--negatives", choices=NEGATIVES, help=f"oreal: wrong completions too, with weights below 0 ({own['negatives']})")
    add("--negative_weight", type=float, metavar="ETA", help="factor of those weights (1)")
    add = parser.add_argument_group("--write preferences").add_argument
    add("--pairs", type=whole_from(1), help="pairs of each row (1)")
    add("--pair_choice", choices=PAIR_CHOICES, help="best with worst, or completions of unlike score with the most common text")
    add("--min_margin", type=float, metavar="X", help="scores of a pair differ by more than this (0)")
    add("--spans", action="store_true", default=None, help="also mark what differs in both texts (RLHF-V)")
    add = parser.add_argument_group("--write step_values").add_argument
    add(
        "--method",
        choices=SEARCH_METHODS,
        help="completions of every step, tree search of first errors, or of values by distance",
    )
    add("--k", type=whole_from(1), help="completions of a step (8)")
    add("--max_completions", type=whole_from(1), help="of a row in all, those of --n included (64)")
    add("--estimate", choices=ESTIMATES, help="soft: the share of right completions; hard: 1 if any is right (soft)")
    add("--alpha", type=float, help="omegaprm: Q = alpha^(1 - MC) beta^(length / L) (0.5)")
    add("--beta", type=float, help="omegaprm: see --alpha (0.9)")
    add("--length_tokens", type=whole_from(1), help="omegaprm: L, see --alpha (500)")
    add("--c_puct", type=float, help="omegaprm: weight of rarely selected states (0.125)")
    add("--exploration", type=float, help="rest_mcts: weight of rarely completed steps (0.7)")


def settle_sample_flags(args: argparse.Namespace) -> None:
    """Fill in defaults. Raises ValueError for a flag without effect, and for numbers that cannot be."""
    for what, own in OF_WRITE.items():
        for name, default in own.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
            elif what not in args.write:
                raise ValueError(f"--{name} is for --write {what}, which is not asked for; add it, or leave --{name} out")
    if len(set(args.write)) != len(args.write):
        raise ValueError(f"--write {' '.join(args.write)} names one twice")
    for method, names in OF_METHOD.items():
        changed = next((name for name in names if getattr(args, name) != OF_WRITE["step_values"][name]), None)
        if changed is not None and args.method != method:
            raise ValueError(f"--{changed} is for --method {method}; add it, or leave --{changed} out")
    if args.method == "rest_mcts" and args.estimate != "soft":
        raise ValueError(f"--estimate {args.estimate}: --method rest_mcts has values of its own; leave --estimate out")
    if args.right_at is not None and "step_values" not in args.write and args.negatives == "none":
        raise ValueError("--right_at is for --write step_values and for --negatives oreal; leave it out")
    if args.negatives == "none" and args.negative_weight != 1.0:
        raise ValueError("--negative_weight is for --negatives oreal; add it, or leave --negative_weight out")
    args.temperature = 1.0 if args.temperature is None else args.temperature
    if not 0 < args.temperature < math.inf:
        raise ValueError(f"--temperature {args.temperature:g}: {args.n} completions of a row differ only above 0")
    _check_numbers(args)


def _check_numbers(args: argparse.Namespace) -> None:
    for name in ("right_at", "min_score", "min_margin", "negative_weight", "alpha", "beta", "c_puct", "exploration"):
        value = getattr(args, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"--{name} {value}: must be a finite number")
    for name, low, high in (("alpha", 0, 1), ("beta", 0, 1)):
        if not low < getattr(args, name) <= high:
            raise ValueError(f"--{name} {getattr(args, name):g}: must be above {low} and at most {high}")
    for name in ("c_puct", "exploration", "negative_weight", "min_margin"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name} {getattr(args, name):g}: must be 0 or more")
    if any(not math.isfinite(weight) for weight in args.reward_weights or ()):
        raise ValueError("--reward_weights must be finite numbers")
    if "step_values" in args.write and args.max_completions < args.n:
        raise ValueError(f"--max_completions {args.max_completions} is less than --n {args.n}, which it includes; raise it")
    if "preferences" in args.write and args.n < 2:
        raise ValueError("--write preferences needs two completions of a row or more: raise --n")
