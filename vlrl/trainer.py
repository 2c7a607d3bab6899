"""GRPO through TRL's `GRPOTrainer`, with what a long run needs: checkpoints that survive a kill, one readable line a step,
every completion on disk with its score and why, and what TRL lacks: dynamic sampling, batches that mix text and images.

The only file that subclasses TRL's trainer. The mathematics (advantages, loss, KL) is TRL's, untouched.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOConfig, GRPOTrainer
from trl.data_utils import prepare_multimodal_messages

from vlrl.checkpoints import PARTIAL, disk_is_full, last_checkpoint, sync
from vlrl.model import Loaded, vision_token_ids
from vlrl.progress import step_line, write_completions
from vlrl.prompts import Samples, dataset
from vlrl.resampling import fresh_indices, n_fresh, remembering, totals, without_spread
from vlrl.rewards import as_trl
from vlrl.schema import Reward, Sample, Score, Task
from vlrl.vision import freeze_vision as freeze
from vlrl.vision import with_targets

ROW_FIELDS = ("token_type_ids", "mm_token_type_ids")
"""What a processor says of tokens; everything else that it adds to ids and mask is about images."""


class RunStopped(RuntimeError):
    """Training had to stop; the message says what is safe and how to go on."""


@dataclass(frozen=True)
class Row:
    """One generated completion. `logprobs`: the sampler's own, from backends that tell them."""

    prompt_ids: list[int]
    ids: list[int]
    logprobs: list[float] | None


class Trainer(GRPOTrainer):  # type: ignore[misc]
    """`GRPOTrainer` fed with `Samples`, each asked as its own task asks, paid by vlrl's rewards.

    `base`: whose value the rewards that need one build on. `applies`: which reward pays which sample (default: each one
    every sample it can score). `dynamic_sampling`: at most so many more rounds of generation a batch, in which groups of
    equal rewards are replaced (0: off). `freeze_vision`: train the language model only.
    """

    def __init__(
        self,
        loaded: Loaded,
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
    ) -> None:
        self._banned = vision_token_ids(loaded)
        kwargs = dict(args.generation_kwargs or {})
        if args.use_vllm:
            kwargs.setdefault("logit_bias", dict.fromkeys(self._banned, -100.0))
        else:
            kwargs.setdefault("suppress_tokens", self._banned)
        args.generation_kwargs = kwargs
        if freeze_vision:
            said = freeze(loaded.model)
            if PartialState().is_main_process:
                print(said, flush=True)
        self._verdicts: dict[str, Score | list[Score]] = {}
        self._asks = dynamic_sampling > 0 and any("network" in reward.needs for reward in rewards)
        self._line_columns = [reward.name for reward in rewards]
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
        self._max_rounds = dynamic_sampling
        self._draws = (-1, 0)
        self._handed: list[tuple[dict[str, Any], Row]] | None = None
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def _as_trl(self, reward: Reward, base: Reward | None, applies: Callable[[Reward, Sample], bool] | None) -> Any:
        scoring = remembering(reward, self._verdicts) if self._asks and "network" in reward.needs else reward
        pays = None if applies is None else partial(applies, reward)
        return as_trl(scoring, base if "base" in reward.needs else None, pays)

    # -- dynamic sampling ----------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's own, on a batch in which groups without spread have been replaced."""
        if self._max_rounds and self.model.training:
            inputs = self._with_spread(list(inputs))
        self._agree_on_images(inputs)
        return dict(super()._generate_and_score_completions(inputs))

    def _with_spread(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Generate and score `inputs` (this process' rows), then replace groups of equal rewards by groups of fresh
        samples that have a spread, for at most `dynamic_sampling` rounds. Returns the rows to train on.

        Every process decides alike from the rewards of all, and generates equally many rows a round. What was generated
        is handed to TRL's own method, which pads, scores and logs it as it would without: its metrics and the completions
        log describe what is trained on, `dynamic_sampling/drawn_reward` what was drawn first.
        """
        group, rank = self.num_generations, self.accelerator.process_index
        self._verdicts.clear()
        rows, rewards_BR = self._draw(inputs)
        empty = self._groups_without_spread(rewards_BR)
        n_empty, n_rounds, open_row = len(empty), 0, cache(self.train_dataset.__getitem__)
        used = set(gather_object([row["index"] for row in inputs])) if empty else set()
        n_draws = self._draws[1] + 1 if self._draws[0] == self.state.global_step else 0
        self._draws = (self.state.global_step, n_draws)
        earned = totals(rewards_BR, self.reward_weights.numpy())
        self._log_drawn("drawn_reward", math.nan if np.isnan(earned).all() else float(np.nanmean(earned)))
        while empty and n_rounds < self._max_rounds:
            n_rounds += 1
            n = n_fresh(len(empty), group, len(inputs), self.accelerator.num_processes)
            fresh = fresh_indices(len(self.train_dataset), used, n, self.args.seed, *self._draws, n_rounds)
            used.update(fresh)
            n_mine = n * group // self.accelerator.num_processes
            mine = [fresh[i // group] for i in range(rank * n_mine, (rank + 1) * n_mine)]
            drawn, rewards_BR = self._draw([open_row(i) for i in mine])
            everyone = gather_object(drawn)
            dull = set(self._groups_without_spread(rewards_BR))
            good = [i for i in range(n) if i not in dull][: len(empty)]
            for place, source in zip(empty, good, strict=False):
                for k in range(group):
                    row = place * group + k - rank * len(inputs)
                    if 0 <= row < len(inputs):
                        inputs[row], rows[row] = open_row(fresh[source]), everyone[source * group + k]
            empty = empty[len(good) :]
        for name, value in (("rounds", n_rounds), ("replaced", n_empty - len(empty)), ("left", len(empty))):
            self._log_drawn(name, value)
        self._handed = list(zip(inputs, rows, strict=True))
        return inputs

    def _draw(self, inputs: list[dict[str, Any]]) -> tuple[list[Row], np.ndarray]:
        """One completion for each row, and the rewards of all processes' rows; leaves no trace in metrics and logs."""
        self._agree_on_images(inputs)
        prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in inputs]
        n_tokens, metrics = self.state.num_input_tokens_seen, self._metrics
        self._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
        prompt_ids, ids, _, completions, logprobs, *_ = self._generate(prompts)
        rewards_BR = self._calculate_rewards(inputs, prompts, completions, ids)
        self.state.num_input_tokens_seen, self._metrics = n_tokens, metrics
        self._pending_extra_logs.clear()
        self._pending_metrics.clear()
        if self._asks:
            for verdicts in gather_object([dict(self._verdicts)]):
                self._verdicts.update(verdicts)
        rows = zip(prompt_ids, ids, logprobs or [None] * len(ids), strict=True)
        return [Row(*row) for row in rows], rewards_BR.cpu().double().numpy()

    def _groups_without_spread(self, rewards_BR: np.ndarray) -> list[int]:
        each = self.multi_objective_aggregation == "normalize_then_sum"
        return without_spread(rewards_BR, self.reward_weights.numpy(), self.num_generations, each)

    def _log_drawn(self, name: str, value: float) -> None:
        self._metrics["train"][f"dynamic_sampling/{name}"].append(value)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]:
        if self._handed is None:
            return super()._tokenize_prompts(prompts)  # type: ignore[no-any-return]
        images = [row["images"] or None for row, _ in self._handed]
        return [row.prompt_ids for _, row in self._handed], images if any(images) else None, {}

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self._handed is None:
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[no-any-return]
        rows = [row for _, row in self._handed]
        self._handed = None
        return [row.ids for row in rows], None if rows[0].logprobs is None else [row.logprobs for row in rows]

    # -- batches of text and images ------------------------------------------------------------------------------------

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """TRL's own, whose None for a row without images is no input for a processor: it takes an empty list."""
        *made, images, tool_images = super()._generate(prompts)
        return (*made, None if images is None else [row or [] for row in images], tool_images)

    def _agree_on_images(self, inputs: list[dict[str, Any]]) -> None:
        """What must be known of all processes before some of them see images and others do not.

        TRL gathers images for its log only where there are some: a process without would never answer. Where weights are
        sharded, the tower itself is such a question, so that such batches are refused.
        """
        seeing = gather_object([[bool(row["images"]) for row in inputs]])
        self.log_multimodal = self.args.log_multimodal and all(map(any, seeing))
        if not self.log_multimodal:
            self._logs["images"].clear()
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        sharded = self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        rows = [row for rank in seeing for row in rank]
        if sharded and any(rows) and not all(rows):
            raise RunStopped(
                f"{sum(rows)} of {len(rows)} completions of a batch have images and the others have none, which hangs where"
                " weights are sharded (FSDP, ZeRO-3); use DDP or ZeRO-2, or train on them apart"
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **fields: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's own, which hands the model an empty tensor where a part of a batch has no image: such rows go apart."""
        n, num_images = len(input_ids), fields.get("num_images")
        size = batch_size or n
        pixels = fields.get("pixel_values")
        split = num_images and pixels is not None and pixels.ndim < 5  # 5: padded to equally many images a row
        if not split or all(any(num_images[i : i + size]) for i in range(0, n, size)):
            return super()._get_per_token_logps_and_entropies(  # type: ignore[no-any-return]
                model, input_ids, attention_mask, logits_to_keep, batch_size, **fields
            )
        seeing = [i for i in range(n) if num_images[i]]
        blind = [i for i in range(n) if not num_images[i]]
        parts = []
        for rows in filter(None, (seeing, blind)):
            own = {name: fields[name][rows] for name in ROW_FIELDS if fields.get(name) is not None}
            own |= {name: fields[name] for name in ("compute_entropy", "compute_aux_loss") if name in fields}
            if rows is seeing:
                counts = {name: [fields[name][i] for i in rows] for name in ("num_images", "num_tiles") if fields.get(name)}
                own = {**fields, **own, **counts}
            parts.append(
                super()._get_per_token_logps_and_entropies(
                    model, input_ids[rows], attention_mask[rows], logits_to_keep, batch_size, **own
                )
            )
        order = torch.tensor(seeing + blind, device=input_ids.device).argsort()
        logps, entropies, aux = zip(*parts, strict=True)
        return (
            torch.cat(logps)[order],
            torch.cat(entropies)[order] if entropies[0] is not None else None,
            torch.stack(aux).mean() if aux[0] is not None else None,
        )

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
        row = {"step": self.state.global_step, **logs}
        row = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        folder = Path(self.args.output_dir)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if "reward" in logs:
            write_completions(folder / "completions" / f"step_{row['step']:06d}.jsonl", row["step"], self._logs)
            eta_s = self._eta_s(row.get("step_time") or 0.0)
            print(step_line(row, self._line_columns, self.state.max_steps, eta_s), flush=True)

    def _eta_s(self, step_time_s: float) -> float:
        started, first = self._started or (time.monotonic(), 0)
        done, left = self.state.global_step - first, self.state.max_steps - self.state.global_step
        return (time.monotonic() - started) / max(done - 1, 1) * left if done > 1 else step_time_s * left

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, PARTIAL) if getattr(self, "_saving", False) else str(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint aside, then move it into place: a kill at any moment leaves only whole checkpoints."""
        folder = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        failure = ""
        self._saving = True
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if not disk_is_full(error, folder):
                raise
            failure = f"{type(error).__name__}: {error}"
        finally:
            self._saving = False
        self._stop_together(failure, folder, name)
        if self.is_world_process_zero():
            sync(folder / PARTIAL / name)
            if (folder / name).exists():
                shutil.rmtree(folder / name)
            os.replace(folder / PARTIAL / name, folder / name)
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            rotate_checkpoints(str(folder), self.args.save_total_limit, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's weights, every one of them.

        transformers saves Qwen's vision-language models under the names of the hub's files but looks for the modules' own
        names on resume, finds none, warns, and goes on with the weights the run began with (seen in 5.23). So whole
        models come back the way they are loaded elsewhere, by `from_pretrained`.
        """
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        if self.is_fsdp_enabled or hasattr(target, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=next(target.parameters()).dtype)
        target.load_state_dict(saved.state_dict(), strict=True)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that were not found are no matter for a warning."""
        ignored = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        missing = [key for key in load_result.missing_keys if key not in ignored]
        if missing and not hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            raise RunStopped(f"the checkpoint lacks {len(missing)} of the model's weights, the first: {missing[0]}")

    def _stop_together(self, failure: str, folder: Path, name: str) -> None:
        """Every rank learns of a full disk, so none waits for the others until a time-out."""
        if self.accelerator.num_processes > 1:
            shared = [failure]
            broadcast_object_list(shared, from_process=0)
            failure = failure or shared[0]
        if not failure:
            return
        if self.is_world_process_zero():
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        safe = last_checkpoint(folder)
        free_mib = shutil.disk_usage(folder).free // 2**20
        raise RunStopped(
            f"no space left for {name} in {folder} ({free_mib} MiB free): {failure}\n"
            f"Safe: {safe or 'no checkpoint yet'}, metrics.jsonl and completions/. Free some space, then go on with"
            f" --output_dir {folder} --resume_from_checkpoint {'true' if safe else '(from the start: no checkpoint yet)'}"
        )
