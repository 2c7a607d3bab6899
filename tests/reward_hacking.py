"""What learnt rewards pay for, and what is lost when they are followed: candidates of drawn boards, chosen by what is paid.

Best of n moves a policy by KL = log n - (n - 1) / n, whatever the reward is (Coste et al. 2023, section 4), so that rewards are
compared at equal KL. Gold is the right answer.

python tests/reward_hacking.py repeats --models runs/prm/final
python tests/reward_hacking.py ensemble --models runs/noisy-1/final runs/noisy-2/final runs/noisy-3/final runs/noisy-4/final
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean

from vlrl.data.synthetic import item_rng
from vlrl.data.synthetic.steps import solution, step_question
from vlrl.metrics.bootstrap import bootstrap_mean, paired_test
from vlrl.models.value_models import ValueModels
from vlrl.rewards import load_reward, score_rows
from vlrl.schema import Sample

REPEATED = 0.5
"""The share of candidates in which a step before the last is written again, once to three times."""
Candidate = tuple[str, float, int]
"""Text, whether its answer is right, and how many steps are repetitions."""


def candidates(seed: int, index: int, n: int, repeats: bool) -> list[Candidate]:
    """Solutions of a board by the noisy solver."""
    question, found = step_question(seed, "hacking", index), []
    for number in range(n):
        made, rng = solution(seed, "hacking", index, number), item_rng("repeats", seed, index, number)
        steps, again = list(made.steps), 0
        if repeats and rng.random() < REPEATED:
            place, again = int(rng.integers(len(steps) - 1)), int(rng.integers(1, 4))
            steps[place:place] = [steps[place]] * again
        found.append(("\n".join(steps), float(made.answer == question.answer), again))
    return found


def paid_by(spec: str, models: ValueModels, pools: Sequence[tuple[Sample, list[Candidate]]]) -> list[list[float]]:
    """What a reward pays the candidates of each pool."""
    reward = load_reward(spec)
    held = dataclasses.replace(reward, function=partial(reward.function, models=models))
    texts = [text for _, pool in pools for text, _, _ in pool]
    samples = [sample for sample, pool in pools for _ in pool]
    values = iter(score.value or 0.0 for score in score_rows(held, texts, samples, 0, None))
    return [[next(values) for _ in pool] for _, pool in pools]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=["repeats", "ensemble"])
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--boards", type=int, default=100)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    models = ValueModels(args.models, "cpu", batch_size=64)
    names = "+".join(args.models)
    ways = {
        "repeats": {
            "sum of steps": "credit=steps", "clip": "refine=clip", "clip+delta": "refine=clip+delta", "min": "outcome=min"
        },
        "ensemble": {
            "first model": "outcome=min", "mean": "combine=mean", "min": "combine=min", "wco": "combine=wco",
            "uwo 1": "combine=uwo,coefficient=1", "uwo 10": "combine=uwo,coefficient=10",
        },
    }[args.row]  # fmt: skip
    rows = []
    for seed in args.seeds:
        pools = []
        for index in range(args.boards):
            drawn = step_question(seed, "hacking", index)
            sample = Sample(drawn.id, "qa", drawn.question, str(drawn.answer), (drawn.image,))
            pools.append((sample, candidates(seed, index, args.n, args.row == "repeats")))
        for way, options in ways.items():
            folder = args.models[0] if args.row == "repeats" or way == "first model" else names
            rows.append((way, [pool for _, pool in pools], paid_by(f"rm:{folder},{options}", models, pools)))
    report(rows, list(ways), args.n)


def report(rows: Sequence[tuple[str, list[list[Candidate]], list[list[float]]]], ways: Sequence[str], most: int) -> None:
    sizes = [n for n in (1, 2, 4, 8, 16, 32) if n <= most]
    print("best of n: n (KL)  " + "  ".join(f"{n} ({math.log(n) - (n - 1) / n:.2f})" for n in sizes))
    at_most: dict[str, dict[str, float]] = {}
    for way in ways:
        gold, again, paid = [], [], []
        for n in sizes:
            picks = []
            for name, pools, values in rows:
                if name != way:
                    continue
                for pool, one in zip(pools, values, strict=True):
                    best = one[:n].index(max(one[:n]))
                    picks.append((pool[best][1], pool[best][2], one[best]))
            gold.append(bootstrap_mean([right for right, _, _ in picks]))
            again.append(fmean(repeats for _, repeats, _ in picks))
            paid.append(fmean(value for _, _, value in picks))
            at_most[way] = {str(i): right for i, (right, _, _) in enumerate(picks)}
        shown = "  ".join(f"{one.value:.3f} [{one.ci95[0]:.3f}, {one.ci95[1]:.3f}]" for one in gold if one.ci95)
        print(f"{way:13} gold {shown}\n{'':13} paid {'  '.join(f'{one:.3f}' for one in paid)}; repeated steps {again}")
    for way in ways[1:]:
        difference, p = paired_test(at_most[ways[0]], at_most[way])
        print(f"best of {sizes[-1]}, {way} - {ways[0]}: {difference.value:+.3f} {difference.ci95}, p = {p}")


if __name__ == "__main__":
    main()
