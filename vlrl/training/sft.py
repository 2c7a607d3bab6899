"""The supervised stage: TRL's `SFTTrainer` on the task's own prompts and targets, loss on the completion only.

Its result is a folder, from which the GRPO stage loads policy and reference alike.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback
from trl import GRPOConfig, SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from vlrl.models.inputs import SFT_TARGETS, Samples, dataset
from vlrl.models.load import LoadedModel
from vlrl.models.vision_encoder import freeze_vision as freeze
from vlrl.models.vision_encoder import with_targets
from vlrl.schema import Task
from vlrl.training import stopping
from vlrl.training.checkpoints import step_of, write_together
from vlrl.training.events import EventLog
from vlrl.training.finite import check_weights, remedies
from vlrl.training.guarded_trainer import GuardedTrainer
from vlrl.training.imitated import WeightedCollator
from vlrl.training.metrics_log import append_row, drop_after, read_metrics
from vlrl.training.progress import SFT_COLUMNS, StepLog
from vlrl.training.run_history import RunFacts
from vlrl.training.stop_callback import StopAtStepEnd
from vlrl.training.trackers import guarded_trackers
from vlrl.training.unused_weights import finds_unused, has_pixels, leaves_weights_unused, with_vision_zeros
from vlrl.training.video_collator import VideoCollator
from vlrl.training.weighted_logps import WeightedLogps
from vlrl.training.whole_checkpoints import newest_whole


class MuonWithAdamW(torch.optim.Optimizer):
    """PyTorch's Muon (https://kellerjordan.github.io/posts/muon/) for the matrices, AdamW for everything else.

    For the embedded model's start from random weights: in one pair of runs its loss after 400 steps was 0.60 instead of
    0.67 with AdamW alone. `lr` is AdamW's; Muon takes `muon_factor` times it, scaled to the same update size.
    """

    def __init__(self, model: torch.nn.Module, lr: float, betas: tuple[float, float], muon_factor: float = 2.0) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=muon_factor * lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=0.01),
        ]
        super().__init__([*matrices, *others], {"lr": lr})
        # The schedule scales the learning rates it finds here.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self._link()

    def _link(self) -> None:
        """One state for all parts, so that it is saved and loaded as one."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._link()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)


class _Trainer(GuardedTrainer, SFTTrainer):
    """`SFTTrainer` with one readable line a logged step, and the mean over the tokens of all processes."""

    rate_flag = "sft_learning_rate"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Qwen's vision-language models say that they take no token count; TRL computes the loss itself, with the count it is
        # given. Without one each process would average over its own tokens, and the gradient depend on who got which rows.
        self.model_accepts_loss_kwargs = True
        self.steps = StepLog("sft", SFT_COLUMNS)
        self.weighted = WeightedLogps(self.model)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's own, of rows with weights on weighted log-probabilities. Where DDP expects a gradient of every weight, a batch
        without images gives the vision encoder zeros."""
        weights_B = inputs.pop("row_weights", None)
        with self.weighted.by(None if weights_B is None else weights_B[:, None]):
            found = super().compute_loss(model, inputs, *args, **kwargs)
        return found if isinstance(found, tuple) else with_vision_zeros(found, model, self.args, has_pixels(inputs))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        if "loss" in logs:
            row = {"stage": "sft", "step": self.state.global_step, **logs}
            folder = Path(str(self.args.output_dir))
            write_together(folder.parent, "sft/metrics.jsonl", lambda: self._write_step(folder, row))
        self.end_if_asked()

    def _write_step(self, folder: Path, row: Mapping[str, Any]) -> None:
        append_row(folder / "metrics.jsonl", row)
        self.steps.show(row, self.state.max_steps)
        self.record(row)

    def safe(self) -> str:
        """A stage is no run that could be named on the command line."""
        return "Nothing of this stage was saved; start it again"


def supervise(
    loaded: LoadedModel,
    tasks: Mapping[str, Task],
    samples: Samples,
    folder: Path,
    like: GRPOConfig,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    muon: bool = False,
    freeze_vision: bool = False,
    peft_config: PeftConfig | None = None,
    target: str = SFT_TARGETS[0],
    events: EventLog | None = None,
    save_minutes: float | None = None,
) -> float:
    """Train `loaded.model` in place for `steps` steps of `batch_size` samples a process; returns the seconds it took.

    Cosine schedule with a tenth of warm-up; precision, seed, checkpointing and Adam's betas as in the GRPO stage. `muon`: for a
    small model that starts from random weights, at a constant rate as the bundled weights were trained (adapters take AdamW).
    Samples are taken in their order (shuffle them before), so a curriculum stays one. Adapters are merged at the end.
    `target`: what is imitated (`vlrl.models.inputs.SFT_TARGETS`). `events`: where its events go. Goes on from a checkpoint in
    `folder`, which a request to stop and `save_minutes` leave there. Raises Stopped, and RunStopped where a number is not
    finite or the disk is full.
    """
    checkpoint = _begin(folder)
    if freeze_vision:
        _say(freeze(loaded.model))
    optimizer = None
    if muon and peft_config is None:
        optimizer = MuonWithAdamW(loaded.model, learning_rate, (like.adam_beta1, like.adam_beta2))
    args = _arguments(folder, like, steps, batch_size, learning_rate, constant=optimizer is not None)
    args.ddp_find_unused_parameters = finds_unused(args, lambda: leaves_weights_unused(loaded.model, samples))
    trainer = _Trainer(
        model=loaded.model,
        args=args,
        train_dataset=dataset(samples, tasks, sft=target),
        processing_class=loaded.processor,
        peft_config=with_targets(peft_config, freeze_vision),
        optimizers=(optimizer, None),
    )
    trainer.data_collator = WeightedCollator(VideoCollator(trainer.data_collator))
    trainer.base_name = loaded.name
    trainer.name_of_row = lambda row: samples.get(row).id
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    _record(trainer, events, folder, step_of(checkpoint))
    stop = stopping.current()
    trainer.add_callback(StopAtStepEnd(stop, save_minutes))
    started = time.monotonic()
    with stop.steps():
        with trainer.steps, guarded_trackers(trainer):
            trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.state.global_step < steps:
            stop.check()
        seconds = time.monotonic() - started
        _finish(trainer, loaded, folder)
    return seconds


def _begin(folder: Path) -> str | None:
    """The folder, with what was logged up to its newest whole checkpoint, which is returned; damaged ones are said."""
    found = newest_whole(folder)
    if found.damaged:
        _say(f"note      {found.note if found.path else '; '.join(found.damaged) + '. The stage begins anew'}")
    PartialState().wait_for_everyone()

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        drop_after(folder / "metrics.jsonl", step_of(found.path))

    write_together(folder.parent, "sft/", write)
    return found.path


def _record(trainer: _Trainer, events: EventLog | None, folder: Path, step: int) -> None:
    """Where events of the stage go; those of before `step` are known."""
    if events is not None:
        begun = events
        write_together(folder.parent, "events.jsonl", lambda: begun.begin("sft", after=step), everyone=True)
    trainer.record_to(events, RunFacts("sft"))
    trainer.take_up_history(read_metrics(folder / "metrics.jsonl"))


def _say(text: str) -> None:
    if PartialState().is_main_process:
        print(text, flush=True)


def _arguments(
    folder: Path, like: GRPOConfig, steps: int, batch_size: int, learning_rate: float, *, constant: bool
) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=1,
        learning_rate=learning_rate,
        lr_scheduler_type="constant" if constant else "cosine",
        warmup_steps=0 if constant else max(1, steps // 10),
        adam_beta1=like.adam_beta1,
        adam_beta2=like.adam_beta2,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=like.bf16,
        fp16=like.fp16,
        use_cpu=like.use_cpu,
        seed=like.seed,
        gradient_checkpointing=like.gradient_checkpointing,
        logging_steps=max(1, min(50, steps // 10)),
        save_strategy="no",
        save_total_limit=1,
        report_to=like.report_to,
        max_length=None,
        train_sampling_strategy="sequential",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=like.dataloader_num_workers,
        dataloader_pin_memory=like.dataloader_pin_memory,
        ddp_find_unused_parameters=like.ddp_find_unused_parameters,
    )


def _finish(trainer: Any, loaded: LoadedModel, folder: Path) -> None:
    """Save the trained weights to `folder/final`, complete or not at all."""
    partial, final = folder / "final.partial", folder / "final"
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        loaded.model = model.merge_and_unload()
        trainer.model = loaded.model
        check_weights(loaded.model, "the model with its merged adapters", remedies(trainer.args, trainer.rate_flag))
    write_together(folder.parent, "sft/final/", lambda: trainer.save_model(str(partial)), everyone=True)

    def finish() -> None:
        loaded.processor.save_pretrained(partial)
        os.replace(partial, final)
        for checkpoint in folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

    write_together(folder.parent, "sft/final/", finish)
