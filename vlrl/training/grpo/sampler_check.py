"""The first generation of a run, scored by the trainer's own forward pass: an engine that samples from something else ends it.

An engine of its own (vLLM) reports the log-probabilities that it sampled with. They differ from the trainer's by rounding:
about 1e-4 nats a token in float32, 0.01 in bfloat16, several times that with quantised weights. An engine that saw other
prompts, images or weights differs by far more, and its completions teach nothing, or the wrong thing; TRL's importance
correction then only makes the loss vanish. transformers' own `generate` runs the very model that is trained, reports no
log-probabilities, and is not checked. Later generations are logged as `sampling/sampling_logp_difference`; the event
`engine_drift` tells when they move away (`vlrl.training.flight_recorder`).
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object

from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.batch import Batch, LogpsAndMore, TrainerCalls
from vlrl.training.grpo.logprobs import Logprobs

LOGP_BOUND = 0.2
"""The default bound: ten times what bfloat16 comes to, and below what other sampling settings (a temperature) make."""
CHANGES_LOGPS = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "vllm_structured_outputs_regex": None}
"""Options that make an engine's log-probabilities those of the tokens it had left to choose from; and their neutral values."""
OURS = {"logit_bias", "seed", "n"}
"""Of `--generation_kwargs`, those that leave the log-probabilities of what may be written as they are."""


class SamplerCheck:
    """Called with every batch of training; looks at the first one. `bound`: the largest mean difference, in nats a token.
    `engine_dtype`: the number format that the engine computes in, as far as it is known."""

    def __init__(self, engine: TrainerCalls, logprobs: Logprobs, bound: float, engine_dtype: str = "") -> None:
        self.engine, self.logprobs, self.bound, self.engine_dtype = engine, logprobs, bound, engine_dtype
        self._done = False

    def __call__(self, batch: Batch) -> None:
        """Raises RunStopped, on all processes alike, where the mean difference is above the bound or is not a number."""
        made = batch.made
        if self._done or made.sampler_logps_BT is None:
            return
        self._done = True
        ours_BT = made.old_logps_BT if made.old_logps_BT is not None else self._scored(batch)[0]
        counted = made.completion_mask_BT.bool() & ~torch.isnan(made.sampler_logps_BT)
        apart = (ours_BT - made.sampler_logps_BT)[counted].abs()
        found = gather_object([(float(apart.sum()), int(apart.numel()))])
        total, n = sum(one for one, _ in found), sum(count for _, count in found)
        mean = total / n if n else 0.0
        if not mean <= self.bound:
            raise RunStopped(self._message(batch, mean, n))

    def _scored(self, batch: Batch) -> LogpsAndMore:
        """By the trainer's own forward pass, where TRL did not need it: the importance correction is off."""
        made = batch.made
        ids_BT, mask_BT = made.all_ids()
        fields: dict[str, Any] = dict(made.images or {})
        size = self.engine.args.per_device_train_batch_size
        with torch.no_grad():
            return self.logprobs(
                batch.plan, self.engine.model, ids_BT, mask_BT, made.completion_ids_BT.shape[1], size, **fields
            )

    def _message(self, batch: Batch, mean: float, n: int) -> str:
        prompts = [one.prompt_ids for one in batch.completions]
        lengths = f"{min(map(len, prompts))} to {max(map(len, prompts))}"
        image = getattr(self.engine.policy.config, "image_token_id", None)
        counts = [sum(token == image for token in ids) for ids in prompts]
        ours = str(self.engine.policy.dtype).removeprefix("torch.")
        args = self.engine.args
        set_here = [
            f"--{name} {getattr(args, name)}" for name, off in CHANGES_LOGPS.items() if getattr(args, name) not in (off, None)
        ]
        others = sorted(set(self.engine.args.generation_kwargs or {}) - OURS)
        set_here += [f"--generation_kwargs {', '.join(others)}"] if others else []
        also = f"; {', '.join(set_here)} may change the engine's log-probabilities by itself" if set_here else ""
        return (
            f"the engine that samples is not the model that is trained: over the {n} tokens of the first generation its"
            f" log-probabilities differ from the trainer's by {mean:.3g} nats on average (--engine_logp_bound {self.bound:g})."
            f" The trainer's prompts have {lengths} tokens, {min(counts)} to {max(counts)} of them image tokens; numbers are"
            f" {ours} here and {self.engine_dtype or 'of an unknown format'} in the engine{also}. Compare the engine's image"
            " processor, weights and --dtype with the run's; or raise the bound"
        )
