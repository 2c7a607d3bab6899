"""GRPO through TRL's `GRPOTrainer`, with what a long run needs: checkpoints that survive a kill, one readable line a step,
every completion on disk with its score and why, and what TRL lacks: prompts and images run once a group, dynamic sampling,
batches that mix text and images, guided thoughts, episodes of many steps.

The only room that subclasses TRL's trainer, in a class for each of these. The mathematics (advantages, loss, KL) is TRL's,
untouched.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback
from trl.trainer.grpo_config import GRPOConfig

from vlrl.models.inputs import Samples, dataset
from vlrl.models.load import LoadedModel, vision_token_ids
from vlrl.models.vision_encoder import freeze_vision as freeze
from vlrl.models.vision_encoder import with_targets
from vlrl.rewards import as_trl
from vlrl.schema import Reward, Sample, Score, Task
from vlrl.training.checkpoints import RunStopped, WholeCheckpoints, write_together
from vlrl.training.events import Event, EventLog
from vlrl.training.finite import LARGEST
from vlrl.training.flight_recorder import LastBatch, RewardFacts, RunFacts
from vlrl.training.grpo.dynamic_sampling_rules import remembering
from vlrl.training.grpo.endpoint_failures import EndpointFailures
from vlrl.training.grpo.episodes import Curriculum
from vlrl.training.grpo.imitation import Guide
from vlrl.training.grpo.resume import KeptGenerations
from vlrl.training.metrics_log import append_row
from vlrl.training.progress import StepLog, grpo_columns, write_completions
from vlrl.training.recorded_steps import RecordedSteps
from vlrl.training.unused_weights import decide_search, leaves_weights_unused

NOT_SAMPLED = ("probability tensor contains", "device-side assert")
"""What PyTorch says when it draws from probabilities that are not finite: on a CPU, and on a GPU, where the words of the
assertion go to the console and other faults have the same name."""


class Trainer(RecordedSteps, WholeCheckpoints, KeptGenerations, EndpointFailures):
    """`GRPOTrainer` on `Samples`, each with the prompt of its own task, scored by vlrl's rewards.

    `base`: the reward whose value those that need one build on. `applies`: which reward scores which sample (default: each one
    every sample it can score). `dynamic_sampling`: at most so many more rounds of generation a batch, in which groups of
    equal rewards are replaced (0: off). `freeze_vision`: train the language model only. `group_shared`: run prompts and images
    once a group where that is possible ("auto"), or refuse to run otherwise ("on", raises NotShared), or never ("off").
    `guide`: how thoughts are corrected, imitated and weighed. `episodes`: the samples are episodes. `curriculum`: easier deals
    first. `events`: where the run's events go. `on_endpoint_failure`: "skip" or "stop", see
    `vlrl.training.grpo.endpoint_failures`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        tasks: Mapping[str, Task],
        rewards: Sequence[Reward],
        samples: Samples,
        args: GRPOConfig,
        peft_config: Any = None,
        *,
        base: Reward | None = None,
        applies: Callable[[Reward, Sample], bool] | None = None,
        dynamic_sampling: int = 0,
        freeze_vision: bool = False,
        group_shared: str = "auto",
        guide: Guide = Guide(),  # noqa: B008 (frozen)
        episodes: bool = False,
        curriculum: Curriculum | None = None,
        events: EventLog | None = None,
        on_endpoint_failure: str = "skip",
    ) -> None:
        self._banned = vision_token_ids(loaded)
        kwargs: dict[str, Any] = dict(args.generation_kwargs or {})  # type: ignore[arg-type]  # a str only before it is parsed
        if args.use_vllm:
            kwargs.setdefault("logit_bias", dict.fromkeys(self._banned, -100.0))
        else:
            kwargs.setdefault("suppress_tokens", self._banned)
        args.generation_kwargs = kwargs
        if freeze_vision:
            frozen = freeze(loaded.model)
            if PartialState().is_main_process:
                print(frozen, flush=True)
        decide_search(args, lambda: leaves_weights_unused(loaded.model, samples))
        self._verdicts: dict[str, Score | list[Score]] = {}
        self._shares_verdicts = dynamic_sampling > 0 and any("network" in reward.needs for reward in rewards)
        self.steps = StepLog("step", grpo_columns([reward.name for reward in rewards]))
        super().__init__(
            model=loaded.model,
            processing_class=loaded.processor,
            reward_funcs=[self._as_trl(reward, base, applies) for reward in rewards],
            args=args,
            train_dataset=dataset(samples, tasks),
            peft_config=with_targets(peft_config, freeze_vision),
        )
        self._samples = samples
        self._row_ids: list[str] = []
        ranges = tuple(RewardFacts(reward.name, reward.low, reward.high) for reward in rewards)
        moves = curriculum is not None or any("step" in reward.needs for reward in rewards)
        self.record_to(events, RunFacts("grpo", ranges, args.max_completion_length, moves))
        self._banned_set = frozenset(self._banned)
        self._started: tuple[float, int] | None = None
        self._start_asking(on_endpoint_failure, rewards)
        self._start_sampling(dynamic_sampling)
        self._start_sharing(group_shared, by_row=episodes)
        self._start_guiding(guide, tasks, rewards)
        if episodes:
            self._start_playing(curriculum)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def _as_trl(self, reward: Reward, base: Reward | None, applies: Callable[[Reward, Sample], bool] | None) -> Any:
        scoring = remembering(reward, self._verdicts) if self._shares_verdicts and "network" in reward.needs else reward
        scores = None if applies is None else partial(applies, reward)
        return as_trl(scoring, base if "base" in reward.needs else None, scores)

    # -- scoring -------------------------------------------------------------------------------------------------------

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        for row, ids in zip(inputs, completion_ids_list, strict=True):
            sampled = self._banned_set.intersection(ids)
            if sampled:
                words = self._tokenizer.convert_ids_to_tokens(sorted(sampled))
                raise RunStopped(
                    f"a completion of sample {row['sample'].id!r} holds vision tokens {words}; they are banned from"
                    " sampling, so the generation backend ignored the ban"
                )
        self._row_ids = [row["sample"].id for row in inputs]
        self._log_completion_extra("id", self._row_ids)
        self._log_completion_extra("truncated", [not ids or ids[-1] not in self._ends for ids in completion_ids_list])
        self._log_completion_extra("n_tokens", [len(ids) for ids in completion_ids_list])
        rewards_BR = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._check_rewards(rewards_BR)
        return rewards_BR

    def _check_rewards(self, rewards_BR: torch.Tensor) -> None:
        """Raises RunStopped, on every process alike, where a reward is infinite in 32 bits or its square would be. NaN stands
        for "does not apply"."""
        too_large_BR = (rewards_BR * self.reward_weights.to(rewards_BR.device)).abs() > LARGEST
        if not bool(too_large_BR.any()):
            return
        ids = [one for rank in gather_object([self._row_ids]) for one in rank]
        places = too_large_BR.nonzero().tolist()
        row, column = places[0]
        name, value = self.reward_func_names[column], float(rewards_BR[row, column])
        self.stop_at(
            self.state.global_step + 1,
            f"reward {name} is {value:g} (larger than advantages can be computed with)",
            list(dict.fromkeys(ids[i] for i, _ in places)),
            {"reward": name, "value": value},
            "scale that reward: values within -1 to 1 are usual",
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch with the sample of each row. Raises RunStopped where the model's probabilities are not finite, so that
        nothing can be sampled from them."""
        try:
            batch = super()._generate_and_score_completions(inputs)
        except RuntimeError as error:
            if not any(words in str(error) for words in NOT_SAMPLED):
                raise
            self._stop_sampling(error)
        if self.model.training:
            batch["sample_ids"] = list(self._row_ids)
            self._watch_rewards()
        return batch

    def _stop_sampling(self, error: RuntimeError) -> NoReturn:
        """Not every process may have met it, so that each says so itself."""
        why = str(error).partition("\n")[0]
        quantity = f"the model's next-token probabilities are not finite ({why})"
        try:
            self.stop_at(self.state.global_step + 1, quantity, [], {})
        except RunStopped as stopped:
            if not self.accelerator.is_main_process:
                print(f"stopped: {stopped}", file=sys.stderr, flush=True)
            raise stopped from error

    def _watch_rewards(self) -> None:
        """A batch in which no reward applied to any completion is an event at once."""
        rewards = self._metrics["train"]["reward"]
        if self.events is not None and rewards and math.isnan(rewards[-1]):
            ids = tuple(dict.fromkeys(self._logs["extra"]["id"]))
            n, names = len(self._logs["extra"]["id"]), ", ".join(self.reward_func_names)
            message = f"no reward ({names}) applied to any of the {n} completions of a batch"
            self.events.add_once(Event(self.state.global_step + 1, "no_rewards", message, ids, {"n": n}))

    def sample_ids(self, inputs: Any) -> list[str]:
        parts = inputs.get("parts") or [inputs]
        return [name for part in parts for name in part.get("sample_ids") or ()]

    @property
    def _ends(self) -> set[int]:
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    # -- logging -------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._started is None:
            self._started = (time.monotonic(), max(self.state.global_step - 1, 0))
        super().log(logs, start_time)
        write_together(str(self.args.output_dir), "the log of a step", lambda: self._write_step(logs))
        self.end_if_asked()

    def _write_step(self, logs: Mapping[str, Any]) -> None:
        row: dict[str, Any] = {"step": self.state.global_step, **logs}
        folder = Path(self.args.output_dir)
        append_row(folder / "metrics.jsonl", row)
        if "reward" in logs:
            write_completions(folder / "completions" / f"step_{row['step']:06d}.jsonl", row["step"], self._logs)
            eta_s = self._eta_s(row.get("step_time") or 0.0)
            self.steps.show(row, self.state.max_steps, eta_s)
        extra = self._logs["extra"]
        self.record(row, LastBatch(list(extra["id"]), list(extra["truncated"])))

    def _eta_s(self, step_time_s: float) -> float:
        started, first = self._started or (time.monotonic(), 0)
        done, left = self.state.global_step - first, self.state.max_steps - self.state.global_step
        return (time.monotonic() - started) / max(done - 1, 1) * left if done > 1 else step_time_s * left
