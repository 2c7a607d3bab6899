"""Which rewards pay which rows: each row its own task's, or those a run names, as far as they can score it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlrl.answers.text import reward_problem
from vlrl.rewards import REWARDS, load_reward
from vlrl.schema import Reward, Sample, Task

FORMS = ("json_format", "think_answer_format", "rec_format", "vision_r1_format", "alphadrive_format")
"""Rewards on form alone come last, so that `--reward_weights` reads: what is right, then how it is written."""


@dataclass(frozen=True)
class Payment:
    """The rewards of a run, in the order of `--reward_weights`. `base`: whose value rewards that build on another take."""

    rewards: tuple[Reward, ...]
    base: Reward | None
    kinds: frozenset[str]
    """Rewards that are some rows' own: they pay those rows only (a letter is no yes or no)."""
    tasks: Mapping[str, Task]

    def applies(self, reward: Reward, sample: Sample) -> bool:
        """Whether `reward` pays this sample."""
        if reward.tasks and sample.task not in reward.tasks:
            return False
        return reward.name not in self.kinds or reward.name in own_rewards(sample, self.tasks)


def own_rewards(sample: Sample, tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """The names of a row's rewards (without options): those it names itself (`meta.rewards`), else its task's."""
    named = sample.meta.get("rewards")
    return tuple(spec.partition(":")[0] for spec in named) if named else tasks[sample.task].rewards(sample)


def choose(named: Sequence[str] | None, samples: Iterable[Sample], tasks: Mapping[str, Task]) -> Payment:
    """The payment of a run on `samples`: the rewards `named`, or else every reward that some sample has for its own.

    A named reward that is some samples' own pays those only; any other pays every sample it can score. Raises ValueError for
    an unknown reward and for a run in which some sample would be paid by nothing.
    """
    samples = list(samples)
    specs: dict[str, str] = {}
    for sample in samples:
        for spec in sample.meta.get("rewards") or tasks[sample.task].rewards(sample):
            specs.setdefault(spec.partition(":")[0], spec)
    order = {name: i for i, name in enumerate([*(name for name in REWARDS if name not in FORMS), *FORMS])}
    chosen = list(named) if named is not None else [specs[name] for name in sorted(specs, key=lambda n: order.get(n, -1))]
    rewards = tuple(load_reward(spec) for spec in chosen)
    base = next((reward for reward in rewards if "base" not in reward.needs and reward.name not in FORMS), None)
    payment = Payment(rewards, base, frozenset(specs), tasks)
    lacking = [reward.name for reward in rewards if "base" in reward.needs and base is None]
    if lacking:
        raise ValueError(f"reward {lacking[0]} builds on another one; name that one too, before it")
    for reward in rewards:
        if reward.name == "llm_judge" and not _options(reward).get("judge_model"):
            raise ValueError("llm_judge asks a model: name it, llm_judge:judge_model=NAME")
    for sample in samples:
        for reward in rewards:
            problem = reward_problem(reward.name, sample) if payment.applies(reward, sample) else None
            if problem:
                raise ValueError(f"reward {reward.name} cannot score sample {sample.id!r}: {problem}")
        if not any(payment.applies(reward, sample) for reward in rewards):
            raise ValueError(
                f"no reward of this run ({', '.join(r.name for r in rewards)}) pays sample {sample.id!r} of task {sample.task}"
            )
    return payment


def _options(reward: Reward) -> Mapping[str, object]:
    """The options set by the user."""
    return reward.function.keywords if isinstance(reward.function, functools.partial) else {}


def with_planned_steps(reward: Reward, steps: int) -> Reward:
    """The reward with a `stage_step` that was given as a share of the run (below 1) turned into a step."""
    stage = _options(reward).get("stage_step")
    if not isinstance(stage, float) or stage >= 1 or not isinstance(reward.function, functools.partial):
        return reward
    keywords = {**reward.function.keywords, "stage_step": float(max(1, round(stage * steps)))}
    return dataclasses.replace(reward, function=functools.partial(reward.function.func, **keywords))
