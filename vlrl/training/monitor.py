"""Beside the reward, a number that nothing is trained on: both on the held-out samples at every evaluation, and within the
groups of training. `--gold` names it; `vlrl.metrics.over_optimisation` has the rule by which a run is called over-optimised.

All of this is done by the first process, and kept in checkpoints, so that a run that goes on compares with the same evaluation.
Not here: ending the run (`StopOnHacking` is transformers' own hook, and which weights are kept is `--metric_for_best_model`'s).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState

from vlrl.data.files import read_json_object, write_whole
from vlrl.metrics.accuracy import image_key
from vlrl.metrics.over_optimisation import HACKING_RULE, BothNumbers, HackingFound, compare, format_share, rank_agreement
from vlrl.rewards.length import repetition
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Metric, Prediction, Reward, Sample, Task, TaskError
from vlrl.tasks.evaluate import Evaluation, result_of
from vlrl.tasks.rubric import Rubric
from vlrl.training.config import Config
from vlrl.training.evaluation_flags import PREFIX
from vlrl.training.events import Event
from vlrl.training.monitor_options import BEST_STEP, GOLD, HACKING, HACKING_EVENT, REWARD, Gold, read_gold
from vlrl.training.reward_models.door import holding
from vlrl.training.run_history import RewardFacts

MONITOR_STATE = "monitor.json"
"""What a checkpoint holds of the monitor."""
AGREEMENT = "gold/agreement"
N_MEASURES = "gold/groups"


@dataclass(frozen=True)
class ComparedWith:
    """What a monitor compares with. `start`: before training; `best`: the earlier evaluation with the best gold; `n`:
    evaluations since training began. `n_tokens` and `repetition`: means before training, which drift is counted from."""

    start: BothNumbers
    best: BothNumbers
    n: int = 0
    n_tokens: float = 0.0
    repetition: float = 0.0


class Monitor:
    """The gold of a run beside its rewards. `weights`: of the rubric's rewards, in their order."""

    def __init__(
        self, gold: Gold, rubric: Rubric, weights: Sequence[float] | None, tasks: Mapping[str, Task], held_out: Sequence[Sample]
    ) -> None:
        self.gold, self.rubric, self.tasks, self.held_out = gold, rubric, tasks, list(held_out)
        self.weights = list(weights) if weights is not None else [1.0] * len(rubric.rewards)
        self.forms = frozenset(one.name for one in rubric.rewards if RewardFacts(one.name).is_format)
        self.clusters = {sample.id: image_key(sample) for sample in self.held_out}
        self.watched: ComparedWith | None = None
        self.event: Event | None = None
        """The latest over-optimisation."""

    # -- held-out samples ----------------------------------------------------------------------------------------------

    def begin(self, predictions: Sequence[Prediction], evaluation: Evaluation) -> None:
        """What the held-out completions are worth before training; nothing where it is known from a checkpoint."""
        if self.watched is None:
            start, numbers = self._measured(0, predictions, evaluation)
            self.watched = ComparedWith(start, start, 0, numbers["n_tokens"], numbers["repetition"])

    def see(self, step: int, predictions: Sequence[Prediction], evaluation: Evaluation) -> dict[str, float]:
        """The numbers of one evaluation, for the log; `event` says whether the reward was raised at the gold's cost. `begin`
        comes first. Raises TaskError where no held-out sample has a value of both."""
        assert self.watched is not None, "the evaluation before training comes first"
        now, numbers = self._measured(step, predictions, evaluation)
        reward, gold = now.reward_mean, now.gold_mean
        if reward is None or gold is None:
            raise TaskError(f"--gold {self.gold.name}: no held-out sample has a value of both reward and gold at step {step}")
        before, n = self.watched, self.watched.n + (step > 0)
        self.event, is_hacked = None, False
        if step > before.best.step:
            higher = self.gold.higher_is_better
            verdict = compare(before.best, now, n, higher_is_better=higher, clusters=self.clusters)
            is_hacked = verdict.is_hacked
            self.event = self._event(before.best, now, verdict) if is_hacked else None
        best = now if self._is_better(now, before.best) else before.best
        self.watched = ComparedWith(before.start, best, n, before.n_tokens, before.repetition)
        found = {REWARD: reward, GOLD: gold, HACKING: float(is_hacked), BEST_STEP: float(best.step)}
        found["length_drift"] = numbers["n_tokens"] / before.n_tokens if before.n_tokens else math.nan
        found["repetition"] = numbers["repetition"]
        found["repetition_drift"] = numbers["repetition"] - before.repetition
        found["format_share"] = numbers["format_share"]
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _is_better(self, now: BothNumbers, best: BothNumbers) -> bool:
        one, other = now.gold_mean, best.gold_mean
        if one is None or other is None:
            return one is not None
        return one > other if self.gold.higher_is_better else one < other

    def _measured(
        self, step: int, predictions: Sequence[Prediction], evaluation: Evaluation
    ) -> tuple[BothNumbers, dict[str, float]]:
        texts = [one.completion for one in predictions]
        n_tokens = [one.n_tokens or 0 for one in predictions]
        rows = self._reward_rows(texts, n_tokens, step)
        rewards = {sample.id: sum(row.values()) for sample, row in zip(self.held_out, rows, strict=True) if row}
        repeated = [-(repetition(text, sample).value or 0.0) for text, sample in zip(texts, self.held_out, strict=True)]
        share = format_share(rows, self.forms)
        numbers = {
            "n_tokens": sum(n_tokens) / max(1, len(n_tokens)),
            "repetition": sum(repeated) / max(1, len(repeated)),
            "format_share": math.nan if share is None else share,
        }
        return BothNumbers(step, rewards, *self._golds(texts, n_tokens, step, evaluation)), numbers

    def _reward_rows(self, texts: Sequence[str], n_tokens: Sequence[int], step: int) -> list[dict[str, float]]:
        """Of each held-out completion the weighted values of the rewards that apply, by name."""
        rows: list[dict[str, float]] = [{} for _ in texts]
        base: Sequence[float | None] | None = None
        if any("base" in reward.needs for reward in self.rubric.rewards) and self.rubric.base is not None:
            base = self._values(self.rubric.base, texts, n_tokens, step)
        for reward, weight in zip(self.rubric.rewards, self.weights, strict=True):
            for row, value in zip(rows, self._values(reward, texts, n_tokens, step, base), strict=True):
                if value is not None:
                    row[reward.name] = weight * value
        return rows

    def _values(
        self,
        reward: Reward,
        texts: Sequence[str],
        n_tokens: Sequence[int],
        step: int,
        base: Sequence[float | None] | None = None,
    ) -> list[float | None]:
        chosen = [i for i, sample in enumerate(self.held_out) if self.rubric.applies(reward, sample)]
        found: list[float | None] = [None] * len(texts)
        scores = score_rows(
            reward,
            [texts[i] for i in chosen],
            [self.held_out[i] for i in chosen],
            step,
            [n_tokens[i] for i in chosen],
            None if base is None or "base" not in reward.needs else [base[i] for i in chosen],
        )
        for i, score in zip(chosen, scores, strict=True):
            found[i] = score.value
        return found

    def _golds(
        self, texts: Sequence[str], n_tokens: Sequence[int], step: int, evaluation: Evaluation
    ) -> tuple[dict[str, tuple[float, float]], tuple[float, float, float] | None]:
        """By sample, or of the whole set where single samples have no value."""
        if self.gold.reward is None:
            own = [row for task, rows in evaluation.rows.items() if self.gold.is_of(task) for row in rows]
            found = {row.id: row.parts[self.gold.metric] for row in own if self.gold.metric in row.parts}
            return found, None if found else _of_set(evaluation.metrics.get(self.gold.name))
        values = self._gold_scores(self.held_out, texts, n_tokens, step)
        return {one.id: (value, 1.0) for one, value in zip(self.held_out, values, strict=True) if value is not None}, None

    def _gold_scores(
        self, samples: Sequence[Sample], texts: Sequence[str], n_tokens: Sequence[int], step: int
    ) -> list[float | None]:
        """The gold reward's values; None where it does not apply."""
        reward = self.gold.reward
        assert reward is not None
        chosen = [i for i, sample in enumerate(samples) if self.gold.problem(sample) is None]
        found: list[float | None] = [None] * len(samples)
        own_texts, own_samples = [texts[i] for i in chosen], [samples[i] for i in chosen]
        scores = score_rows(reward, own_texts, own_samples, step, [n_tokens[i] for i in chosen])
        for i, score in zip(chosen, scores, strict=True):
            found[i] = score.value
        return found

    def _event(self, best: BothNumbers, now: BothNumbers, verdict: HackingFound) -> Event:
        since = f"since step {best.step}" if best.step else "since the start"
        changes = {REWARD: verdict.reward_change, GOLD: verdict.gold_change}
        message = (
            f"the reward rose by {_shown(changes[REWARD])} {since} while the gold {self.gold.name} went from"
            f" {best.gold_mean:.3f} to {now.gold_mean:.3f} ({_shown(changes[GOLD])}): the reward no longer means what it should"
        )
        values = {f"{name}_change": metric.value for name, metric in changes.items()}
        values |= {"gold": now.gold_mean, "best_gold": best.gold_mean, "best_step": best.step, "p_value": verdict.p_value}
        return Event(now.step, HACKING_EVENT, message, (), values)

    # -- groups of training --------------------------------------------------------------------------------------------

    @property
    def sees_groups(self) -> bool:
        """Whether the gold is measured on the completions of training too: not where that would ask a network each step."""
        return self.gold.reward is None or "network" not in self.gold.reward.needs

    def watch(self, engine: Any, batch: Any, weights_R: torch.Tensor) -> None:
        """Note what `of_groups` says of a generation (`TrainerCalls`, `Batch` of `vlrl.training.grpo.batch`, which imports this
        file). Every process calls this."""
        if not self.sees_groups or batch.scores_BR is None:
            return
        rewards_B = (batch.scores_BR * weights_R.to(batch.scores_BR.device)).nansum(1)
        samples, lengths = [row["sample"] for row in batch.rows], [len(one.ids) for one in batch.completions]
        step = int(engine.state.global_step)
        found = self.of_groups(samples, batch.texts, lengths, rewards_B.tolist(), engine.num_generations, step)
        engine.completions_log["extra"]["gold"] = self.latest_golds
        for name, value in found.items():
            engine.note(name, value)

    def of_groups(
        self,
        samples: Sequence[Sample],
        texts: Sequence[str],
        n_tokens: Sequence[int],
        rewards: Sequence[float],
        group: int,
        step: int,
    ) -> dict[str, float]:
        """Over the completions of all processes, groups adjacent: the gold's mean, and how alike reward and gold rank them
        (`rank_agreement`). Every process calls this with its own rows."""
        golds = self._train_golds(samples, texts, n_tokens, step)
        pairs = gather_object([*zip(rewards, golds, strict=True)])
        self.latest_golds = [gold if math.isfinite(gold) else None for _, gold in pairs]
        groups = [([r for r, _ in some], [g for _, g in some]) for some in _chunks(pairs, group)]
        tau, n = rank_agreement(groups)
        known = [gold for _, gold in pairs if math.isfinite(gold)]
        found = {"gold/mean": sum(known) / len(known)} if known else {}
        return found | {N_MEASURES: float(n)} | ({} if tau is None else {AGREEMENT: tau})

    def _train_golds(self, samples: Sequence[Sample], texts: Sequence[str], n_tokens: Sequence[int], step: int) -> list[float]:
        if self.gold.reward is not None:
            values = self._gold_scores(samples, texts, n_tokens, step)
            return [math.nan if value is None else value for value in values]
        found = []
        for sample, text, length in zip(samples, texts, n_tokens, strict=True):
            task = self.tasks[sample.task]
            skipped = task.parallel(sample) or not self.gold.is_of(sample.task)
            result = None if skipped else result_of(task, sample, Prediction(sample.id, text, length, truncated=False))
            top, bottom = (0.0, 0.0) if result is None else result.parts.get(self.gold.metric, (0.0, 0.0))
            found.append(top / bottom if bottom else math.nan)
        return found

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save(self, checkpoint: Path) -> None:
        if PartialState().is_main_process and self.watched is not None:
            state = {"gold": self.gold.name, "ids": [one.id for one in self.held_out], "watched": asdict(self.watched)}
            write_whole(checkpoint / MONITOR_STATE, json.dumps(state) + "\n")

    def restore(self, checkpoint: Path) -> None:
        """Go on with what a checkpoint has of the same gold on the same samples; else the start is measured again."""
        path = checkpoint / MONITOR_STATE
        if not PartialState().is_main_process or not path.is_file():
            return
        state = read_json_object(path)
        if (state["gold"], state["ids"]) != (self.gold.name, [one.id for one in self.held_out]):
            return
        kept = state["watched"]
        self.watched = ComparedWith(_read(kept["start"]), _read(kept["best"]), kept["n"], kept["n_tokens"], kept["repetition"])


class StopOnHacking(TrainerCallback):
    """Ends training at the first evaluation that raised the reward at the gold's cost (`--stop_on_hacking`). The numbers of an
    evaluation are the same on every process, so all end alike."""

    def __init__(self) -> None:
        self.called = self.keeps_start = False
        """Whether there was one, and whether the weights before training are the best by it."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics = kwargs.get("metrics") or {}
        if metrics.get(PREFIX + HACKING):
            control.should_training_stop = True
            self.called = True
            self.keeps_start = start_is_best([metrics])


def start_is_best(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last evaluation among these rows of a log found the reward raised at the gold's cost, and no better gold than
    before training."""
    last: Mapping[str, Any] = next((row for row in reversed(rows) if PREFIX + GOLD in row), {})
    return bool(last.get(PREFIX + HACKING)) and not last.get(PREFIX + BEST_STEP)


def make_monitor(config: Config, rubric: Rubric, held_out: Sequence[Sample], device: torch.device) -> Monitor | None:
    """The monitor of `--gold`, None without one; what holds a model gets it on `device`. Raises ConfigError, ModelError."""
    if not config.monitor.gold:
        return None
    gold = read_gold(config.monitor.gold)
    if gold.reward is not None:
        gold = replace(gold, reward=holding([gold.reward], device)[0])
    return Monitor(gold, rubric, config.grpo.reward_weights, config.tasks, held_out)


def gold_summary(
    rows: Sequence[Mapping[str, Any]], gold: str, *, keeps_best: bool, start: BothNumbers | None = None
) -> dict[str, Any]:
    """What `summary.json` says: the rule, reward and gold before training and at every evaluation, the first step at which the
    reward was raised at the gold's cost (null: never), and, where `--stop_on_hacking` keeps the best, whose weights `final/`
    holds. `rows`: of `metrics.jsonl`."""
    names = (REWARD, GOLD, HACKING, BEST_STEP, "length_drift", "repetition_drift", "format_share")
    found = [
        {"step": row["step"], **{name: row[PREFIX + name] for name in names if PREFIX + name in row}}
        for row in rows
        if PREFIX + GOLD in row
    ]
    hacked = next((row["step"] for row in found if row.get(HACKING)), None)
    known = {"name": gold, "rule": HACKING_RULE, "hacked_at_step": hacked}
    known |= {} if start is None else {"before": {REWARD: start.reward_mean, GOLD: start.gold_mean}}
    known |= {"evaluations": found}
    if not keeps_best or not found:
        return known
    higher = read_gold(gold).higher_is_better
    trained = [row for row in found if row["step"]]
    best = (max if higher else min)(trained, key=lambda row: row[GOLD], default=None)
    kept = 0 if start_is_best(rows) else None if best is None else best["step"]
    return known | {"weights_of_step": kept}


def _read(row: Mapping[str, Any]) -> BothNumbers:
    gold = {key: (part[0], part[1]) for key, part in row["gold"].items()}
    return BothNumbers(int(row["step"]), dict(row["reward"]), gold, None if row["whole"] is None else tuple(row["whole"]))


def _of_set(metric: Metric | None) -> tuple[float, float, float] | None:
    """A metric's value and the ends of its interval; without one these are the value."""
    if metric is None or metric.value is None:
        return None
    low, high = metric.ci95 or (metric.value, metric.value)
    return metric.value, low, high


def _chunks(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _shown(metric: Metric) -> str:
    """A change with its interval."""
    if metric.value is None:
        return "an unknown amount"
    ends = "" if metric.ci95 is None else f" [{metric.ci95[0]:.3f}, {metric.ci95[1]:.3f}]"
    return f"{metric.value:.3f}{ends}"
