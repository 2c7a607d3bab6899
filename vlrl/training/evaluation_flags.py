"""The flags of measurements on the way (`--eval_strategy`): which fit together, and what holds where none is set. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.schema import Task
from vlrl.tasks.evaluate import LOWER_IS_BETTER, headline
from vlrl.training.options import ConfigError

PREFIX = "eval_"
"""What transformers puts before the names of metrics on held-out samples."""
OF_EVALUATION = (
    *("eval_steps", "eval_delay", "eval_on_start", "metric_for_best_model", "greater_is_better", "load_best_model_at_end"),
    *("early_stopping_patience", "early_stopping_threshold", "gold"),
)
"""Options that say something of measurements on the way."""
OF_THEIR_EVALUATION = (
    *("prediction_loss_only", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object"),
    *("batch_eval_metrics", "include_for_metrics", "do_predict"),
)
"""Options of an evaluation loop of transformers that is not used."""


def check_evaluation(values: Mapping[str, Any], *, measures: bool = True) -> None:
    """Measurements on the way are asked for wherever something needs them, and only where they are made. Raises ConfigError."""
    is_asked = evaluates(values)
    for name in OF_THEIR_EVALUATION:
        if values.get(name) not in (None, False, ""):
            raise ConfigError(
                f"--{name}: it is for transformers' own evaluation, which is not used here (held-out samples are answered and"
                " measured by their task); leave it out"
            )
    if values.get("eval_do_concat_batches") is False:
        raise ConfigError(
            "--eval_do_concat_batches: it is for transformers' own evaluation, which is not used here; leave it out"
        )
    if is_asked and not measures:
        raise ConfigError("--eval_strategy: this kind of run is measured before and after training alone; leave it out")
    if is_asked and "grpo" not in str(values.get("stage") or "grpo"):
        raise ConfigError("--eval_strategy: only the GRPO stage is measured on the way; leave it out with --stage sft")
    if int(values.get("num_generations_eval") or 1) != 1:
        raise ConfigError("--num_generations_eval: held-out samples are answered once, without sampling; leave it out")
    if is_asked:
        return
    scheduler = str(values.get("lr_scheduler_type"))
    needing = [f"--{name}" for name in OF_EVALUATION if values.get(name) not in (None, False, "")]
    needing += ["--do_eval"] if values.get("do_eval") is True else []
    needing += ["--save_strategy best"] if str(values.get("save_strategy")) == "best" else []
    needing += [f"--lr_scheduler_type {scheduler}"] if scheduler in ("reduce_lr_on_plateau", "greedy") else []
    if needing:
        how = "add --eval_strategy steps --eval_steps 50" if measures else "this kind of run has none; leave it out"
        raise ConfigError(f"{needing[0]} needs measurements on the way, and none are made: {how}")


def evaluation_defaults(values: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """TRL's options for a run that measures on the way, where nothing else is set: by the first task's headline, as often as
    checkpoints are written. `values`: what files and command line set."""
    if not evaluates(values):
        return {}
    stops_on_hacking = str(values.get("stop_on_hacking")).lower() == "true"
    chosen = "gold" if stops_on_hacking else values.get("metric_for_best_model")
    best = str(chosen or headline({task.name: task for task in tasks}))
    judged_by = str(values.get("gold")) if best.removeprefix(PREFIX) == "gold" else best
    # Each sample is answered once; TRL would ask for batches of whole groups.
    found = {"num_generations_eval": 1, "metric_for_best_model": best, "greater_is_better": is_better_high(judged_by)}
    if stops_on_hacking:
        found["load_best_model_at_end"] = True
    if str(values["eval_strategy"]) == "steps" and "save_steps" in values:
        found["eval_steps"] = values["save_steps"]
    return found


def evaluates(values: Mapping[str, Any]) -> bool:
    """Whether `--eval_strategy` asks for measurements on the way."""
    return str(values.get("eval_strategy") or "no").lower() not in ("no", "false", "none")


def is_better_high(metric: str) -> bool:
    """Whether more of a metric is better; `metric` may carry the name of its task."""
    return metric.removeprefix(PREFIX).rpartition("/")[2] not in LOWER_IS_BETTER
