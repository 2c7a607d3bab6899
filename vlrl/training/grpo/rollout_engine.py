"""The engine that writes a run's completions where it is not the model in training: vLLM, in the same processes or behind a
server. How it is made, and what of it is watched: whether it samples from the model that is trained, and how old its weights
are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlrl.training.grpo.rollout_lag import LookAhead, RolloutsAhead, SentWeights
from vlrl.training.grpo.sampler_check import SamplerCheck
from vlrl.training.grpo.served_generation import ServedGeneration, generation_by_files
from vlrl.training.grpo.vllm_on_cpu import fit_for_training

if TYPE_CHECKING:
    from vlrl.training.grpo.adapter import Adapter


@contextmanager
def engine_made(weights_folder: Path | None, processor: Any, *, colocates: bool) -> Iterator[None]:
    """Within, TRL makes the engine. `weights_folder`: where a server reads the weights; None for TRL's own ways."""
    with generation_by_files(weights_folder, processor), fit_for_training() if colocates else nullcontext():
        yield


def connect_engine(trainer: Adapter, bound: float, lag: int, safe: Callable[[], str], *, ahead: bool) -> None:
    """What vLLM is handed, and how it is checked; nothing without it.

    `bound`: the largest mean difference between its log-probabilities and the trainer's, in nats a token. `lag`: how many
    updates old its weights may be. `safe`: says what was saved so far. `ahead`: whether all prompts of a batch are known before
    it begins.
    """
    if not trainer.use_vllm:
        return
    dtype = ""
    if trainer.colocated is not None:
        trainer.colocated.vllm = trainer.vllm_generation
        dtype = str(trainer.vllm_generation.llm.llm_engine.model_config.dtype).removeprefix("torch.")
    served = trainer.vllm_generation if isinstance(trainer.vllm_generation, ServedGeneration) else None
    if served is not None:
        trainer.say(f"rollouts  {served.server} reads the weights from {served.folder}")
        dtype, served.safe, served.step_now = served.dtype, safe, lambda: int(trainer.state.global_step)
    trainer.sampler_check = SamplerCheck(trainer, trainer.logprobs, bound, dtype)
    if lag or served is not None:
        trainer.sent = SentWeights(lag)
    updates = math.ceil(trainer.n_micro_steps / trainer.args.gradient_accumulation_steps)
    if trainer.sent is not None and served is not None and ahead and lag >= updates:
        window = LookAhead(trainer.n_micro_steps)
        trainer.ahead = RolloutsAhead(trainer, trainer.rollout, served, trainer.sent, window, updates)
        trainer.say("rollouts  the next batch is written while this one is learnt from (--rollout_lag)")
