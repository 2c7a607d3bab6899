"""`list`: what can be run and what it needs."""

from __future__ import annotations

import argparse

from vlrl.bench.autotrust import PARTS
from vlrl.rewards import REWARDS, options_of
from vlrl.tasks import KNOWN


def show(args: argparse.Namespace) -> int:
    for task in KNOWN.values():
        print(f"task    {task.name:16} headline {task.headline}; needs --data samples.jsonl, or nothing for synthetic samples")
    print("bench   autotrust        every part below whose files are there; without --data the project's own small fixture")
    for part in PARTS.values():
        print(f"bench   {'autotrust/' + part.name:28} {part.about}; needs {part.needs}")
    print(
        "bench   vilbench         best of N by a reward model (asked, or trained by --task prm): needs --data items.jsonl and"
    )
    print("                         --candidates candidates.jsonl; without them the project's own small fixture")
    print("bench   vilbench/candidates  writes such candidates with any model: needs --data items.jsonl, or the fixture")
    print("train   prm              a reward model for it: vlrl/train.py --task prm; needs --data, or nothing for drawn boards")
    for reward in REWARDS.values():
        first = (reward.function.__doc__ or "").strip().splitlines()[0]
        needs = f", needs {' '.join(sorted(reward.needs))}" if reward.needs else ""
        options = "".join(f" {name}={p.default}" for name, p in options_of(reward).items())
        print(
            f"reward  {reward.name:26} {reward.low:g}..{reward.high:g}{needs}; {first}"
            + (f" [options:{options}]" if options else "")
        )
    return 0
