"""A step of GRPO over many GPUs, simulated: engines write completions of drawn lengths, processes train on them, all wait where
the program makes them wait.

Modes of the rollout:
    own        transformers in the training processes: every process writes the completions that it trains on
    colocate   vLLM in the training processes: an engine over `parallel` of them writes for these
    server     vLLM on GPUs of its own; training may use completions that are at most `lag` updates old

Everything is drawn by (seed, step, engine), so the same plan gives the same numbers. Not here: what a part costs
(`vlrl.bench.speed.step_costs`), what fits in memory (`vlrl.models.memory`). No torch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vlrl.bench.speed.hardware import Hardware
from vlrl.bench.speed.step_costs import (
    decode_s,
    micro_batches_of,
    network_s,
    optimizer_s,
    prefill_s,
    sync_s,
    update_s,
)
from vlrl.models.memory import Job, ModelSizes

ROLLOUT_MODES = ("own", "colocate", "server")
REWARD_CORES = 4
"""CPU cores a process that score completions beside each other."""


@dataclass(frozen=True)
class Lengths:
    """Completion lengths: log-normal around `median` tokens, at most `longest`. `spread`: standard deviation of the
    logarithm."""

    median: int = 200
    spread: float = 0.6
    longest: int = 1024

    def draw(self, n: int, key: tuple[int, ...]) -> list[int]:
        drawn = np.random.default_rng(key).lognormal(np.log(self.median), self.spread, n)
        return [int(x) for x in np.clip(drawn, 1, self.longest).round()]


@dataclass(frozen=True)
class ClusterPlan:
    """How a run is laid out. `n_gpus`: all; `n_rollout`: those of servers (0: the training processes write). `parallel`: GPUs
    of an engine. `rows`: completions a training process and step. `job`: of a training process."""

    model: ModelSizes
    job: Job
    n_gpus: int
    mode: Literal["own", "colocate", "server"] = "colocate"
    parallel: int = 1
    n_rollout: int = 0
    lag: int = 0
    lengths: Lengths = Lengths()
    rows: int = 16

    @property
    def n_training(self) -> int:
        return self.n_gpus - self.n_rollout

    @property
    def n_engines(self) -> int:
        return (self.n_rollout if self.mode == "server" else self.n_gpus) // self.parallel


@dataclass(frozen=True)
class StepTimes:
    """Means over the simulated steps. `seconds`: of the parts of a step, along its longest path; `waiting`: shares of all GPU
    time that is spent waiting, by reason; `busy`: the share in which GPUs compute; `tokens`: completion tokens a second, all
    GPUs."""

    step_s: float
    seconds: dict[str, float]
    waiting: dict[str, float]
    tokens: float

    @property
    def waiting_share(self) -> float:
        return sum(self.waiting.values())


@dataclass(frozen=True)
class _Rollout:
    """One generation: when each engine is done, from its start, and the lengths of every training process."""

    engines: list[float]
    by_process: list[list[int]]

    @property
    def seconds(self) -> float:
        return max(self.engines)


def _rollout(plan: ClusterPlan, machine: Hardware, step: int, seed: int) -> _Rollout:
    n_all = plan.rows * plan.n_training
    cuts = np.array_split(np.arange(n_all), plan.n_engines)
    seconds, lengths = [], list[int]()
    own = plan.mode == "own"
    step_s = machine.own_step_s if own else machine.engine_step_s
    for engine, cut in enumerate(cuts):
        drawn = plan.lengths.draw(len(cut), (seed, step, engine))
        lengths += drawn
        prompts = len(cut) / plan.job.group if plan.job.shared else len(cut)
        took = prefill_s(plan.model, plan.job, prompts, plan.parallel, machine)
        took += decode_s(plan.model, plan.job, drawn, plan.parallel, machine, drops=not own, step_s=step_s)
        seconds.append(took)
    rows = plan.rows
    return _Rollout(seconds, [lengths[i * rows : (i + 1) * rows] for i in range(plan.n_training)])


def _compute(plan: ClusterPlan, machine: Hardware, lengths: list[int]) -> float:
    """Forward and backward passes of one process on its completions; a group in several micro-batches reads its prompt in
    each."""
    job = plan.job
    at_once = min(job.rows, job.group) if job.shared else job.rows
    groups = [lengths[i : i + at_once] for i in range(0, len(lengths), at_once)]
    return update_s(plan.model, job, groups, micro_batches_of(len(lengths), job.rows), machine)


def simulate(plan: ClusterPlan, machine: Hardware, *, steps: int = 20, seed: int = 0) -> StepTimes:
    """Run so many steps. Raises ValueError for a plan without a GPU to train or to write on."""
    if plan.n_training < 1 or plan.n_engines < 1:
        raise ValueError(
            f"{plan.n_gpus} GPUs, {plan.n_rollout} for rollouts in engines of {plan.parallel}: none is left for a part"
        )
    parts: dict[str, float] = defaultdict(float)
    lost: dict[str, float] = defaultdict(float)
    wait_train = wait_rollout = 0.0
    tokens = 0
    sync = sync_s(plan.model, plan.job, plan.mode, plan.n_training, machine)
    update_end, generation_end = [0.0], [0.0]
    synced = [0.0]  # when the weights after update i can be used
    for step in range(steps):
        made = _rollout(plan, machine, step, seed)
        tokens += sum(map(sum, made.by_process))
        compute = [_compute(plan, machine, lengths) for lengths in made.by_process]
        n_micro = micro_batches_of(plan.rows, plan.job.rows)
        slowest = max(compute)
        network = network_s(plan.model, plan.job, n_micro, slowest, machine)
        optimizer = optimizer_s(plan.model, plan.job, machine)
        reward = plan.rows * machine.reward_s / REWARD_CORES
        update = slowest + network + optimizer
        parts["rollout"] += made.seconds
        parts["reward"] += reward
        parts["update"] += update
        parts["weight sync"] += sync
        idle = float(np.sum(made.seconds - np.array(made.engines)))
        n = plan.n_gpus
        lost["longest completion"] += idle * plan.parallel / n
        lost["reward"] += reward * plan.n_training / n
        lost["uneven update"] += float(np.sum(slowest - np.array(compute))) / n
        lost["network"] += network * plan.n_training / n
        if plan.mode == "server":
            # Generation `step` may use weights that are `lag` updates old; it also waits for its engines to be free.
            ready = synced[max(0, step - plan.lag)]
            start = max(generation_end[-1], ready)
            generation_end.append(start + made.seconds)
            train = max(update_end[-1], generation_end[-1]) + reward
            wait_train += train - reward - update_end[-1]
            wait_rollout += start - generation_end[-2]
            update_end.append(train + update + sync)
            synced.append(update_end[-1])
            lost["weight sync"] += sync
        else:
            update_end.append(update_end[-1] + sync + made.seconds + reward + update)
            lost["weight sync"] += sync
    total = update_end[-1]
    if plan.mode == "server":
        lost["training for completions"] = wait_train * plan.n_training / plan.n_gpus
        tail = total - generation_end[-1]
        lost["servers for weights"] = (wait_rollout + tail) * plan.n_rollout / plan.n_gpus
        lost["weight sync"] *= plan.n_training / plan.n_gpus
    return StepTimes(
        step_s=total / steps,
        seconds={name: value / steps for name, value in parts.items()},
        waiting={name: value / total for name, value in lost.items()},
        tokens=tokens / total,
    )


def balanced(plan: ClusterPlan, machine: Hardware, *, steps: int = 3, seed: int = 0) -> ClusterPlan:
    """The server plan whose split between training and writing gives most tokens a second; the rows of a step stay."""
    n_rows = plan.rows * plan.n_gpus
    best: tuple[float, ClusterPlan] | None = None
    for share in (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8):
        n_rollout = int(plan.n_gpus * share) // plan.parallel * plan.parallel
        n_training = plan.n_gpus - n_rollout
        if n_rollout < plan.parallel or n_training < 1:
            continue
        rows = max(plan.job.rows, round(n_rows / n_training / plan.job.rows) * plan.job.rows)
        job = replace(plan.job, processes=n_training)
        tried = replace(plan, n_rollout=n_rollout, rows=rows, job=job)
        tokens = simulate(tried, machine, steps=steps, seed=seed).tokens
        if best is None or tokens > best[0]:
            best = (tokens, tried)
    if best is None:
        raise ValueError(f"{plan.n_gpus} GPUs cannot be split into training and engines of {plan.parallel}")
    return best[1]
