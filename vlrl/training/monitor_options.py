"""The options that watch what a reward still means (`--gold`), and every check of them that needs no model. No torch.

Not here: the numbers themselves (`vlrl.training.monitor`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrl.answers.kind import answer_kinds
from vlrl.data.name_values import nearest
from vlrl.rewards import REWARDS, load_reward, reward_name
from vlrl.schema import Prediction, Reward, Sample, Task
from vlrl.tasks.evaluate import LOWER_IS_BETTER, evaluate
from vlrl.training.events import ANY
from vlrl.training.options import ConfigError

GOLD, REWARD, HACKING, BEST_STEP = "gold", "reward", "hacking", "best_gold_step"
"""What an evaluation calls the gold, the reward beside it, whether that was raised at the gold's cost (1) or not (0), and the
step of the best gold so far (0: before training)."""
HACKING_EVENT = "reward_hacking"
UNFIT = {"group": "it scores groups of completions", "base": "it builds on another reward"}
"""Needs of rewards that can be no gold, and why: a held-out sample is answered once."""
N_DRAWN = 40
"""Drawn samples of each task that a gold is tried on, where no file is named."""


@dataclass(frozen=True)
class MonitorConfig:
    """The options of a run about what it watches beside its rewards."""

    gold: str | None = field(
        default=None,
        metadata={
            "help": "A reward or metric that nothing is trained on, measured beside the reward on held-out samples"
            " (--eval_strategy); a run that raises the reward while this one falls is an event (reward_hacking)."
        },
    )
    stop_on_hacking: bool = field(
        default=False,
        metadata={"help": "With --gold: end the run at that event, and keep the weights with the best gold."},
    )

    @property
    def measured(self) -> tuple[str, ...]:
        """What checkpoints may be compared by beside the tasks' metrics."""
        return (GOLD, REWARD) if self.gold else ()

    @property
    def words(self) -> str:
        """For a run's banner; "" without a gold."""
        return f"{self.gold}, measured beside the rewards, which nothing is trained on" if self.gold else ""


@dataclass(frozen=True)
class Gold:
    """What `--gold` names: a reward, or (None) the metric of that name. A metric may carry its task's name, `task/metric`."""

    name: str
    reward: Reward | None

    @property
    def metric(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def higher_is_better(self) -> bool:
        return self.reward is not None or self.metric not in LOWER_IS_BETTER

    def is_of(self, task: str) -> bool:
        """Whether samples of this task have the metric."""
        return "/" not in self.name or self.name.rpartition("/")[0] == task

    def problem(self, sample: Sample) -> str | None:
        """Why the reward cannot score this sample, or None."""
        if self.reward is None:
            return None
        found = answer_kinds(sample)
        if self.reward.answers and not self.reward.answers & found:
            wanted = " or ".join(sorted(self.reward.answers))
            return f"it scores answers of the kind {wanted}, this one is {' and '.join(sorted(found))}"
        return None if self.reward.problem is None else self.reward.problem(sample)


def read_gold(name: str) -> Gold:
    """Raises ConfigError for a user's file that cannot be read, and for a reward that cannot score a single completion."""
    is_file = ".py" in name
    try:
        reward = load_reward(name) if is_file or reward_name(name) in REWARDS else _other_reward(name)
    except (ValueError, OSError) as error:
        raise ConfigError(f"--gold {name}: {error}") from error
    unfit = next((why for need, why in UNFIT.items() if reward is not None and need in reward.needs), None)
    if unfit:
        raise ConfigError(f"--gold {name}: {unfit}, and held-out samples are answered once; name another reward or a metric")
    return Gold(name, reward)


def _other_reward(name: str) -> Reward | None:
    """A reward that is no entry of `REWARDS` but can be loaded all the same; None: it must be a metric."""
    try:
        return load_reward(name)
    except (ValueError, OSError):
        if ":" in name:
            raise
        return None


def check_monitor(values: Mapping[str, Any], tasks: Sequence[Task], rewards: Sequence[str]) -> None:
    """The options of the monitor, as far as they can be known to be wrong before the data are read. Raises ConfigError."""
    name = values.get("gold")
    stops = str(values.get("stop_on_hacking") or False).lower() == "true"
    if not name:
        named = str(values.get("stop_on") or "")
        if HACKING_EVENT in [one.strip() for one in named.split(",")] and named != ANY:
            raise ConfigError(f"--stop_on {named}: {HACKING_EVENT} is only looked for beside a --gold; name one")
        return
    gold = read_gold(str(name))
    if gold.reward is not None and gold.reward.name in map(reward_name, rewards):
        raise ConfigError(f"--gold {name}: it is among --rewards; a gold is one that nothing is trained on")
    drawn = [task.draw(0, "heldout", i) for task in tasks if task.synthetic is not None for i in range(N_DRAWN)]
    known = {task.name: task for task in tasks}
    if any(known[sample.task].is_episode(sample) for sample in drawn):
        raise ConfigError(f"--gold {name}: episodes are measured by their game's own result; leave --gold out")
    if not values.get("data"):
        check_gold_rows(gold, known, drawn, "the drawn samples")
    if stops:
        _check_stop(values)


def _check_stop(values: Mapping[str, Any]) -> None:
    """What `--stop_on_hacking` decides is not decided otherwise."""
    best = values.get("metric_for_best_model")
    if best not in (None, GOLD, f"eval_{GOLD}"):
        raise ConfigError(
            f"--stop_on_hacking keeps the weights with the best gold, --metric_for_best_model {best} others; leave one out"
        )
    for name in ("load_best_model_at_end", "greater_is_better"):
        if values.get(name) is not None and str(values[name]).lower() not in ("true", "none"):
            raise ConfigError(f"--stop_on_hacking decides which weights are kept; leave --{name} {values[name]} out")
    for name in ("fsdp", "deepspeed"):
        if values.get(name) not in (None, False, "", "None", []):
            raise ConfigError(
                f"--stop_on_hacking with --{name} was not tried; leave one out (--gold alone measures and says it)"
            )


def check_gold_of_run(
    name: str | None, rewards: Sequence[Reward], tasks: Mapping[str, Task], held_out: Sequence[Sample], source: str
) -> None:
    """The gold is none of a run's rewards and has a value for its held-out samples. Raises ConfigError."""
    if not name:
        return
    gold = read_gold(name)
    if gold.reward is not None and gold.reward.name in [reward.name for reward in rewards]:
        raise ConfigError(f"--gold {name}: it is among the rewards of these rows; a gold is one that nothing is trained on")
    if any(tasks[sample.task].is_episode(sample) for sample in held_out):
        raise ConfigError(f"--gold {name}: episodes are measured by their game's own result; leave --gold out")
    check_gold_rows(gold, tasks, held_out, source)


def check_gold_rows(gold: Gold, tasks: Mapping[str, Task], samples: Sequence[Sample], source: str) -> None:
    """The gold has a value for these held-out samples. Raises ConfigError, naming what they lack."""
    if gold.reward is None:
        _check_metric(gold, tasks, samples, source)
        return
    problems = [gold.problem(sample) for sample in samples]
    if None not in problems:
        raise ConfigError(
            f"--gold {gold.name} can score none of the {len(samples)} held-out samples of {source}: {problems[0]} (sample"
            f" {samples[0].id!r}); name a reward or metric of these"
        )


def _check_metric(gold: Gold, tasks: Mapping[str, Task], samples: Sequence[Sample], source: str) -> None:
    asked = [sample for sample in samples if not tasks[sample.task].parallel(sample)]  # of a network's nothing is known yet
    blank = [Prediction(sample.id, "", 0, truncated=False) for sample in asked]
    known = [*evaluate(tasks, asked, blank).metrics] if asked else []
    if gold.name in known or len(asked) < len(samples):
        return
    raise ConfigError(
        f"--gold {gold.name}: no reward, and no metric of {source}{nearest(gold.name, [*known, *REWARDS])} (metrics:"
        f" {', '.join(known)})"
    )
