"""What goes wrong in a run, found in the numbers that it logs: one function an event, all thresholds here. No torch.

They are meant to be silent in a healthy run: each wants a state to last for many steps and three logged ones, and those that
compare with the start leave a run alone whose reward has risen. A run that is resumed reads its own `metrics.jsonl` again and
knows what it knew.

Sources: DAPO (arXiv 2503.14476: entropy collapse, groups without spread, lengths), Skywork-OR1 (arXiv 2505.22312: entropy),
Dr. GRPO (arXiv 2503.20783: lengths), TRL's documentation of its metrics, and reports of failed runs in public issues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vlrl.training.events import Event
from vlrl.training.run_history import EARLY_STEPS, LASTING_STEPS, MIN_ROWS, RISEN, History, RunFacts

LONG_STEPS = 50
"""How long the reward stays below its start before that counts."""
RECOVERED_STEPS = 100
"""An event that has not been seen for so many steps may be said again."""
EVERY = 0.999
"""The share from which it is every one."""
ENGINE_NATS = 0.1
"""The mean difference, in nats a token, between an engine's log-probabilities and the trainer's from which the two are not
the same model: bfloat16 comes to 0.01 to 0.05 (`vlrl.training.grpo.sampler_check`)."""


@dataclass(frozen=True)
class Sign:
    """What a detector found, and the numbers behind it. `samples`: which completions of the last batch show it."""

    message: str
    values: Mapping[str, float]
    samples: str = ""


Detector = Callable[[History], Sign | None]


def constant_reward(history: History) -> Sign | None:
    """Every group has equal rewards for `LASTING_STEPS` steps, and not because the answers are right."""
    shares = history["frac_reward_zero_std"].last()
    if not shares or min(shares) < EVERY or history.does_well():
        return None
    reward = history["reward"].values[-1] if history["reward"].values else math.nan
    message = (
        f"all completions of every group got the same reward for {LASTING_STEPS} steps ({reward:.3g}), so nothing is learnt"
    )
    return Sign(message, {"reward": reward, "frac_reward_zero_std": shares[-1]}, "all")


def truncated(history: History) -> Sign | None:
    """At least half of the completions reach the longest length, for `LASTING_STEPS` steps."""
    shares = history["completions/clipped_ratio"].last()
    if not shares or min(shares) < 0.5:
        return None
    limit = history.facts.max_length
    message = f"{median(shares):.0%} of the completions were cut off" + (f" at {limit} tokens" if limit else "")
    return Sign(f"{message} for {LASTING_STEPS} steps", {"clipped_ratio": median(shares)}, "truncated")


def kl_runaway(history: History) -> Sign | None:
    """The KL to the reference is above 1 nat a token and ten times what it was, or above 10 whatever it was, for `EARLY_STEPS`
    steps. Healthy runs of this kind stay below 0.5; some that are wrong from the first step begin with thousands."""
    early, last = history["kl"].early(), history["kl"].last(EARLY_STEPS)
    if not early or not last or min(last) < min(max(1.0, 10 * median(early)), 10.0):
        return None
    message = f"the KL to the reference model is {median(last):.3g} nats a token; in the first steps it was {median(early):.3g}"
    return Sign(message, {"kl": median(last), "kl_at_start": median(early)})


def entropy_collapse(history: History) -> Sign | None:
    """The entropy has fallen to a twentieth of what it was for `LASTING_STEPS` steps, without a better reward."""
    early, last = history["entropy"].early(), history["entropy"].last(apart=True)
    if not early or not last or max(last) > 0.05 * median(early) or history.does_well():
        return None
    message = f"the entropy fell from {median(early):.3g} to {median(last):.3g} nats a token and the reward did not rise"
    return Sign(message, {"entropy": median(last), "entropy_at_start": median(early)})


def entropy_explosion(history: History) -> Sign | None:
    """The entropy is three times what it was and 1 nat a token above it, for `EARLY_STEPS` steps."""
    early, last = history["entropy"].early(), history["entropy"].last(EARLY_STEPS, apart=True)
    if not early or not last or min(last) < max(3 * median(early), median(early) + 1):
        return None
    message = f"the entropy rose from {median(early):.3g} to {median(last):.3g} nats a token"
    return Sign(message, {"entropy": median(last), "entropy_at_start": median(early)})


def reward_below_start(history: History) -> Sign | None:
    """The reward is lower than at the start by a quarter of a batch's spread in each of the last `LONG_STEPS` steps."""
    early, spread, last = (
        history["reward"].early(),
        history["reward_std"].early(),
        history["reward"].last(LONG_STEPS, apart=True),
    )
    if history.facts.scale_moves or not early or not last or not spread:
        return None
    if max(last) >= median(early) - max(RISEN * median(spread), 1e-6):
        return None
    message = (
        f"the reward has been below its start for {LONG_STEPS} steps: {median(last):.3g}, at the start {median(early):.3g}"
    )
    return Sign(message, {"reward": median(last), "reward_at_start": median(early)})


def format_only(history: History) -> Sign | None:
    """Rewards of form are at least half of what they can be, or rising, and no reward of the answer has been above 0 for 30
    steps."""
    answers = [history.of_reward(one).last(30) for one in history.facts.rewards if one.is_accuracy]
    forms = {one.name: history.of_reward(one) for one in history.facts.rewards if one.is_format and one.high < math.inf}
    if not answers or not forms or not all(answers) or max(map(max, answers)) > 1e-3:
        return None
    for name, series in forms.items():
        early, last = series.early(), series.last(30)
        if last and early and (min(last) >= 0.5 or median(last) >= median(early) + 0.2):
            message = f"{name} is {median(last):.3g} and no answer has been right for 30 steps: only the form is learnt"
            return Sign(message, {name: median(last)}, "all")
    return None


def learning_rate_zero(history: History) -> Sign | None:
    """The learning rate has been 0 for `EARLY_STEPS` steps (the first step of a warm-up has 0 as well)."""
    rates = history["learning_rate"].last(EARLY_STEPS)
    if not rates or any(rates):
        return None
    return Sign(f"the learning rate has been 0 for {EARLY_STEPS} steps", {"learning_rate": 0.0})


def gradient_zero(history: History) -> Sign | None:
    """The norm of the gradient has been 0 for `LASTING_STEPS` steps, with rewards that differ."""
    norms, shares = history["grad_norm"].last(), history["frac_reward_zero_std"].last()
    if not norms or any(norms) or any(share >= EVERY for share in shares):
        return None
    return Sign(f"the gradient has been 0 for {LASTING_STEPS} steps", {"grad_norm": 0.0})


def length_explosion(history: History) -> Sign | None:
    """Completions are three times as long as at the start and take half of the longest length, without a better reward."""
    early, last = history["completions/mean_length"].early(), history["completions/mean_length"].last(apart=True)
    limit = history.facts.max_length or math.inf
    if not early or not last or min(last) < max(3 * median(early), limit / 2) or history.does_well():
        return None
    message = f"completions grew from {median(early):.0f} to {median(last):.0f} tokens and the reward did not rise"
    return Sign(message, {"mean_length": median(last), "mean_length_at_start": median(early)}, "all")


def length_collapse(history: History) -> Sign | None:
    """Completions are a quarter as long as at the start, without a better reward."""
    early, last = history["completions/mean_length"].early(), history["completions/mean_length"].last(apart=True)
    if not early or not last or max(last) > median(early) / 4 or history.does_well():
        return None
    message = f"completions shrank from {median(early):.0f} to {median(last):.0f} tokens and the reward did not rise"
    return Sign(message, {"mean_length": median(last), "mean_length_at_start": median(early)}, "all")


def reward_always_max(history: History) -> Sign | None:
    """A reward of the answer has been at its highest value in every step from the first, for `LASTING_STEPS` steps."""
    for one in history.facts.rewards:
        series = history.of_reward(one)
        if one.is_accuracy and one.high < math.inf and series.last() and min(series.values) >= one.high - 1e-6:
            message = f"{one.name} has been at its highest value ({one.high:g}) for every completion since the start"
            return Sign(message, {one.name: series.values[-1]}, "all")
    return None


def loss_constant(history: History) -> Sign | None:
    """The loss of a stage that imitates has not changed for `LASTING_STEPS` steps and five logged ones."""
    losses = history["loss"].last()
    if history.facts.stage == "grpo" or not losses or len(history["loss"].values) < 5:
        return None
    losses = history["loss"].values[-max(5, len(losses)) :]
    if max(losses) - min(losses) > 1e-6 * max(abs(losses[-1]), 1e-12):
        return None
    return Sign(f"the loss has not changed for {LASTING_STEPS} steps ({losses[-1]:.6g})", {"loss": losses[-1]})


def endpoint_failures(history: History) -> Sign | None:
    """Ten questions to a judge or a corrector have failed within the last three logged steps, and a fifth of the requests."""
    for what in ("judge", "corrector"):
        failed, calls = (_since(history[f"{what}/{name}"].values) for name in ("failed", "calls"))
        if failed >= 10 and failed >= 0.2 * calls:
            message = f"{failed:.0f} questions to the {what} have failed of late ({calls:.0f} requests)"
            return Sign(message, {"failed": failed, "calls": calls})
    return None


def engine_drift(history: History) -> Sign | None:
    """The engine that samples is `ENGINE_NATS`, and five times what it was at the start, away from the trainer's
    log-probabilities (median of `LASTING_STEPS` steps), with weights that should be the newest: updates do not reach all of
    it. Single batches swing by half of that and more."""
    key = "sampling/sampling_logp_difference/mean"
    early, last = history[key].early(), history[key].last()
    if not early or not last or median(last) < max(ENGINE_NATS, 5 * median(early)) or any(history["sampling/lag"].values):
        return None
    message = (
        f"the engine that samples is {median(last):.3g} nats a token away from the model that is trained; in the first steps it"
        f" was {median(early):.3g}"
    )
    return Sign(message, {"logp_difference": median(last), "logp_difference_at_start": median(early)})


def _since(totals: Sequence[float]) -> float:
    """How much a running total has grown within the last `MIN_ROWS` logged steps."""
    return totals[-1] - (totals[-1 - MIN_ROWS] if len(totals) > MIN_ROWS else 0.0) if totals else 0.0


DETECTORS: dict[str, Detector] = {
    "constant_reward": constant_reward,
    "truncated": truncated,
    "kl_runaway": kl_runaway,
    "entropy_collapse": entropy_collapse,
    "entropy_explosion": entropy_explosion,
    "reward_below_start": reward_below_start,
    "format_only": format_only,
    "learning_rate_zero": learning_rate_zero,
    "gradient_zero": gradient_zero,
    "length_explosion": length_explosion,
    "length_collapse": length_collapse,
    "reward_always_max": reward_always_max,
    "loss_constant": loss_constant,
    "endpoint_failures": endpoint_failures,
    "engine_drift": engine_drift,
}


@dataclass(frozen=True)
class LastBatch:
    """The completions of the last generation: the sample of each, and whether it was cut off."""

    ids: Sequence[str] = ()
    truncated: Sequence[bool] = ()

    def samples(self, which: str) -> tuple[str, ...]:
        """Samples whose completions are of a kind: "all", "truncated", or "" for none."""
        if not which:
            return ()
        chosen = self.truncated if which == "truncated" else [True] * len(self.ids)
        return tuple(dict.fromkeys(name for name, is_it in zip(self.ids, chosen, strict=False) if is_it))


class FlightRecorder:
    """Logged steps in, events out; each is said once, and again only after the run has been without it for a while."""

    def __init__(self, facts: RunFacts, said: Iterable[str] = ()) -> None:
        self._history = History(facts)
        self._said = set(said)
        self._seen_at: dict[str, int] = {}

    def see(self, row: Mapping[str, Any], batch: LastBatch = LastBatch()) -> list[Event]:
        """What a logged step (a trainer's metrics, and `step`) brings to light."""
        step = int(row["step"])
        self._history.add(step, row)
        found = []
        for name, detect in DETECTORS.items():
            finding = detect(self._history)
            if finding is not None:
                if name not in self._said:
                    samples = batch.samples(finding.samples)
                    found.append(Event(step, name, finding.message, samples, finding.values))
                self._said.add(name)
                self._seen_at[name] = step
            elif name in self._said and step - self._seen_at.get(name, step) >= RECOVERED_STEPS:
                self._said.discard(name)
            else:
                self._seen_at.setdefault(name, step)
        return found


def data_events(keys: Sequence[Hashable], ids: Sequence[str], n_prompts: int, n_steps: int) -> list[Event]:
    """What is known of repeated data before the first step. `keys`: what each training sample asks (question and images),
    `ids`: its name; `n_prompts`: prompts a step, `n_steps`: steps of the run.

    A run that passes over its samples more than 100 times repeats them, and so does one whose file holds the same question
    about the same images ten times as often as it should.
    """
    found = []
    n = len(keys)
    if 0 < n < n_prompts:
        message = f"the data has {n} samples and a step takes {n_prompts} prompts, so that samples repeat within a step"
        found.append(Event(0, "small_data", message, tuple(ids), {"n_samples": n, "n_prompts": n_prompts}))
    counts: dict[Hashable, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    passes = n_prompts * n_steps / max(n, 1)
    n_copies = n - len(counts)
    if n and n_copies >= max(2, n / 2):
        names = tuple(name for key, name in zip(keys, ids, strict=True) if counts[key] > 1)
        message = f"{n_copies} of {n} samples are copies of others (same question, same images)"
        found.append(Event(0, "data_repeats", message, names, {"n_samples": n, "n_copies": n_copies}))
    elif n and passes > MAX_PASSES:
        message = f"the run goes over its {n} samples {passes:.0f} times"
        found.append(Event(0, "data_repeats", message, (), {"n_samples": n, "passes": passes}))
    return found


MAX_PASSES = 100
"""Passes over the data that are not worth a word: published few-shot recipes make 50."""
