"""GRPO through TRL's `GRPOTrainer`, with what a long run needs: checkpoints that survive a kill, one readable line a step,
every completion on disk with its score and why, and what TRL lacks: prompts and images run once a group, dynamic sampling,
batches that mix text and images, guided thoughts, episodes of many steps.

The only room that subclasses TRL's trainer, in a class for each of these. The mathematics (advantages, loss, KL) is TRL's,
untouched.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback
from trl.trainer.grpo_config import GRPOConfig

from vlrl.models.inputs import Samples, dataset
from vlrl.models.load import LoadedModel, vision_token_ids
from vlrl.models.vision_encoder import freeze_vision as freeze
from vlrl.models.vision_encoder import with_targets
from vlrl.rewards import as_trl
from vlrl.schema import Reward, Sample, Score, Task
from vlrl.training.checkpoints import RunStopped, WholeCheckpoints
from vlrl.training.grpo.dynamic_sampling_rules import remembering
from vlrl.training.grpo.episodes import Curriculum, Episodes
from vlrl.training.grpo.imitation import Guide
from vlrl.training.grpo.resume import KeptGenerations
from vlrl.training.progress import StepLog, grpo_columns, write_completions
from vlrl.training.unused_weights import decide_search, leaves_weights_unused


class Trainer(WholeCheckpoints, KeptGenerations, Episodes):
    """`GRPOTrainer` on `Samples`, each with the prompt of its own task, scored by vlrl's rewards.

    `base`: the reward whose value those that need one build on. `applies`: which reward scores which sample (default: each one
    every sample it can score). `dynamic_sampling`: at most so many more rounds of generation a batch, in which groups of
    equal rewards are replaced (0: off). `freeze_vision`: train the language model only. `group_shared`: run prompts and images
    once a group where that is possible ("auto"), or refuse to run otherwise ("on", raises NotShared), or never ("off").
    `guide`: how thoughts are corrected, imitated and weighed. `episodes`: the samples are episodes. `curriculum`: easier deals
    first.
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
        self._banned_set = frozenset(self._banned)
        self._started: tuple[float, int] | None = None
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
        self._log_completion_extra("id", [row["sample"].id for row in inputs])
        self._log_completion_extra("truncated", [not ids or ids[-1] not in self._ends for ids in completion_ids_list])
        self._log_completion_extra("n_tokens", [len(ids) for ids in completion_ids_list])
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    @property
    def _ends(self) -> set[int]:
        return {*self.eos_token_ids, self._tokenizer.pad_token_id}

    # -- logging -------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._started is None:
            self._started = (time.monotonic(), max(self.state.global_step - 1, 0))
        super().log(logs, start_time)
        if not self.accelerator.is_main_process:
            return
        row: dict[str, Any] = {"step": self.state.global_step, **logs}
        row = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        folder = Path(self.args.output_dir)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if "reward" in logs:
            write_completions(folder / "completions" / f"step_{row['step']:06d}.jsonl", row["step"], self._logs)
            eta_s = self._eta_s(row.get("step_time") or 0.0)
            self.steps.show(row, self.state.max_steps, eta_s)

    def _eta_s(self, step_time_s: float) -> float:
        started, first = self._started or (time.monotonic(), 0)
        done, left = self.state.global_step - first, self.state.max_steps - self.state.global_step
        return (time.monotonic() - started) / max(done - 1, 1) * left if done > 1 else step_time_s * left
