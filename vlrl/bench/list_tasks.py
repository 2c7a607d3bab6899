"""`list`: what can be run and what it needs."""

from __future__ import annotations

import argparse

from vlrl.bench.suites import SUITES
from vlrl.metrics.tables import text_table
from vlrl.rewards import REWARDS, options_of
from vlrl.tasks import KNOWN
from vlrl.tasks.protocols import PROTOCOLS


def show(args: argparse.Namespace) -> int:
    """Print a table of the tasks, one of the benchmarks with their parts, the protocols and the rewards."""
    samples = "--data samples.jsonl, or nothing for synthetic samples"
    tasks = [["task", task.name, task.headline, samples] for task in KNOWN.values()]
    tasks.append(["training", "prm", "a reward model for vilbench: vlrl train --task prm", samples])
    tasks.append(["training", "rm", "a reward model of preferences: vlrl train --task rm", samples])
    print(text_table(["Kind", "Name", "Headline", "Needs"], tasks))
    benchmarks = []
    for name, entry in SUITES.items():
        benchmarks.append(["benchmark", name, entry.about, entry.needs])
        benchmarks += [["benchmark", f"{name}/{part}", about, needs] for part, (about, needs) in entry.parts().items()]
    print(text_table(["Kind", "Name", "What it measures", "Needs"], benchmarks))
    protocols = [["protocol", name, f"--task {one.task}", one.about, one.headline] for name, one in PROTOCOLS.items()]
    print(text_table(["Kind", "Name", "Of", "What it measures", "Headline"], protocols))
    rewards = []
    for reward in REWARDS.values():
        first = (reward.function.__doc__ or "").strip().splitlines()[0]
        options = " ".join(f"{name}={p.default}" for name, p in options_of(reward).items())
        rewards.append(
            ["reward", reward.name, f"{reward.low:g}..{reward.high:g}", " ".join(sorted(reward.needs)), first, options]
        )
    print(text_table(["Kind", "Name", "Range", "Needs", "What it scores", "Options"], rewards))
    return 0
