"""`list`: what can be run and what it needs."""

from __future__ import annotations

import argparse

from vlrl.autotrust import PARTS
from vlrl.rewards import REWARDS, options_of
from vlrl.tasks import KNOWN


def show(args: argparse.Namespace) -> int:
    for task in KNOWN.values():
        print(f"task    {task.name:16} headline {task.headline}; needs --data samples.jsonl, or nothing for synthetic samples")
    print("bench   autotrust        every part below whose files are there; without --data the project's own small fixture")
    for part in PARTS.values():
        print(f"bench   {'autotrust/' + part.name:28} {part.about}; needs {part.needs}")
    for reward in REWARDS.values():
        first = (reward.function.__doc__ or "").strip().splitlines()[0]
        needs = f", needs {' '.join(sorted(reward.needs))}" if reward.needs else ""
        options = "".join(f" {name}={p.default}" for name, p in options_of(reward).items())
        print(
            f"reward  {reward.name:26} {reward.low:g}..{reward.high:g}{needs}; {first}"
            + (f" [options:{options}]" if options else "")
        )
    return 0
