"""What vlrl overrides and reads of TRL's `GRPOTrainer`, with types: TRL's own are partial, and most of it is private.

At run time `TRLTrainer` is `GRPOTrainer` itself. What TRL renames breaks here first.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from transformers import Trainer
    from trl.trainer.grpo_config import GRPOConfig

    class Arguments(GRPOConfig):
        """What is set once a trainer is made."""

        output_dir: str
        steps_per_generation: int
        max_completion_length: int
        generation_kwargs: dict[str, Any] | None

    class TRLTrainer(Trainer):
        args: Arguments
        model: Any
        model_wrapped: Any
        ref_model: Any
        processing_class: Any
        train_dataset: Any
        generation_config: Any
        num_generations: int
        num_iterations: int
        current_gradient_accumulation_steps: int
        temperature: float
        beta: float
        loss_type: str
        top_entropy_quantile: float
        aux_loss_enabled: bool
        multi_objective_aggregation: str
        reward_weights: torch.Tensor
        reward_func_names: list[str]
        eos_token_ids: list[int]
        use_vllm: bool
        use_transformers_continuous_batching: bool
        log_multimodal: bool
        _tokenizer: Any
        _entropy_bonus_enabled: bool
        _step: int
        _buffered_inputs: list[Any] | None
        _metrics: dict[str, defaultdict[str, list[float]]]
        _logs: dict[str, Any]
        _pending_metrics: Any
        _pending_extra_logs: Any

        def __init__(
            self,
            model: Any,
            reward_funcs: Sequence[Any],
            args: GRPOConfig,
            train_dataset: Any,
            processing_class: Any,
            peft_config: Any = None,
        ) -> None: ...
        def _prepare_inputs(self, generation_batch: Any) -> Any: ...
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]: ...
        def _generate(self, prompts: list[Any]) -> tuple[Any, ...]: ...
        def _generate_single_turn(
            self, prompt_ids: Any, images: Any, fields: Any, num_generations: int, *args: Any
        ) -> tuple[Any, Any]: ...
        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[Any, Any, dict[str, Any]]: ...
        def _calculate_rewards(
            self,
            inputs: list[dict[str, Any]],
            prompts: list[Any],
            completions: list[Any],
            completion_ids_list: list[list[int]],
        ) -> torch.Tensor: ...
        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            logits_to_keep: int,
            batch_size: int | None = None,
            **fields: Any,
        ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]: ...
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any: ...
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None: ...
        def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any: ...
        def _log_completion_extra(self, column: str, values: list[Any]) -> None: ...
        def _save_checkpoint(self, model: Any, trial: Any) -> None: ...
        def _get_output_dir(self, trial: Any) -> str: ...

    Batch = dict[str, Any]

    def split_pixel_values_by_grid(batch: Batch) -> Batch: ...
    def unsplit_pixel_values_by_grid(batch: Batch) -> Batch: ...
    def shuffle_sequence_dict(batch: Batch) -> Batch: ...
    def split_tensor_dict(batch: Batch, n: int) -> list[Batch]: ...

else:
    from trl import GRPOTrainer as TRLTrainer
    from trl.trainer.utils import (
        shuffle_sequence_dict,
        split_pixel_values_by_grid,
        split_tensor_dict,
        unsplit_pixel_values_by_grid,
    )

__all__ = [
    "TRLTrainer",
    "shuffle_sequence_dict",
    "split_pixel_values_by_grid",
    "split_tensor_dict",
    "unsplit_pixel_values_by_grid",
]
