"""Whether the shared layout computes what TRL's does: log-probabilities, loss, gradients and tokens of one group.

Not here: what is fast (`vlrl.bench.speed.measure`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig
from trl.trainer.utils import add_fused_lm_head

from vlrl.bench.speed.models import speed_model
from vlrl.bench.speed.plan import Case
from vlrl.models.load import vision_token_ids
from vlrl.models.prefix_sharing import rollout as shared_rollout
from vlrl.models.prefix_sharing.attention import choose_kernel, use_attention
from vlrl.models.prefix_sharing.facts import facts_of, why_not
from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.models.prefix_sharing.image_rows import ROW_COUNTS, told_image_counts
from vlrl.models.prefix_sharing.step import BatchPlan, Sharing, split_prompts
from vlrl.models.vision_encoder import freeze_vision, is_vision_weight

N_TOKENS_COMPARED = 16
"""Of a rollout: random weights soon meet ties that rounding decides."""
BETA = 0.04


def compare_layouts(case: Case, named_kernel: str = "auto") -> dict[str, Any]:
    """The numbers of the contract, with this attention of shared groups. `noise_floor` and `grad_noise`: TRL's layout against
    itself, its rows one by one (float32) or through another attention (bfloat16). Raises NotShared where the model's groups
    are not shared."""
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)
    loaded = speed_model(case.model, device, dtype, case.seed, packed=True)
    model: Any = loaded.model.train()
    if why := why_not(model, tried=True):
        raise NotShared(f"this model trains as TRL does: {why}")
    add_fused_lm_head(model)
    if case.freeze_vision:
        freeze_vision(model)
    kernel = choose_kernel(device, dtype, named_kernel)[0] if facts_of(model).is_causal else "mask"
    sharing = Sharing(kernel, case.freeze_vision, False, False, nullcontext)
    ids_BT, plan = _batch(case, loaded, sharing)
    n_keep, mask_BT = case.completion_tokens, torch.ones_like(ids_BT)

    def stock(at_once: int) -> Callable[[], Tensor]:
        return lambda: _plain(model, ids_BT, mask_BT, n_keep, plan, at_once)

    def route(packed: bool, text: str = "sdpa") -> None:
        model.set_attn_implementation({"text_config": text, "vision_config": "sdpa"})
        if packed:
            use_attention(model)

    def shared() -> Tensor:
        return sharing.logps(model, ids_BT, mask_BT, n_keep, plan, entropy=False)[0]  # type: ignore[no-any-return]

    whole = case.group if device.type == "cpu" else 2
    route(False)
    logps, loss, kept = _computed(model, stock(whole), case.seed)
    if dtype == torch.float32:
        other, _, other_kept = _computed(model, stock(1), case.seed, logps)
    else:
        route(False, "eager")
        other, _, other_kept = _computed(model, stock(whole), case.seed, logps)
    noise, grad_noise = float((other - logps).abs().max()), _gap(other_kept, kept)["grad_rel_l2"]
    del other_kept
    route(True)
    own, own_loss, own_kept = _computed(model, shared, case.seed, logps)
    gap = (own - logps).abs()
    tokens = _tokens(case, loaded, ids_BT, plan, route)
    return {
        "max_abs_dlogp": float(gap.max()),
        "mean_abs_dlogp": float(gap.mean()),
        "noise_floor": noise,
        "grad_noise": grad_noise,
        "abs_dloss": abs(own_loss - loss),
        **_gap(own_kept, kept),
        "params_with_grad_equal": set(own_kept) == set(kept),
        "sampled_tokens_equal": tokens,
        "prompt_tokens": ids_BT.shape[1] - n_keep,
    }


def _batch(case: Case, loaded: Any, sharing: Sharing) -> tuple[Tensor, BatchPlan]:
    """One prompt with its images, and G completions of random text."""
    rng = np.random.default_rng(case.seed)
    images = [
        Image.fromarray(rng.integers(0, 256, (*case.image_px[::-1], 3), dtype=np.uint8)) for _ in range(case.images_per_prompt)
    ]
    text = "".join(chr(97 + int(i)) for i in rng.integers(0, 26, case.prompt_tokens))
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    made = loaded.processor.apply_chat_template(
        [[{"role": "user", "content": content}]], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    fields = {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}
    prompts = split_prompts([list(made["input_ids"][0])], [images], fields)
    device = loaded.model.device
    plan = sharing.plan(loaded.model, prompts, case.group, device)
    special = _never_written(loaded)
    words = [i for i in range(min(len(loaded.tokenizer), 1000)) if i not in special]
    completions = torch.from_numpy(rng.choice(words, (case.group, case.completion_tokens)))
    prompt = torch.tensor(prompts[0].ids).expand(case.group, -1)
    return torch.cat([prompt, completions], dim=1).to(device), plan


def _never_written(loaded: Any) -> set[int]:
    """Ids that no completion holds: special tokens, of vision above all."""
    return {*loaded.tokenizer.all_special_ids, *loaded.tokenizer.get_added_vocab().values(), *vision_token_ids(loaded)}


def _plain(model: Any, ids_BT: Tensor, mask_BT: Tensor, n_keep: int, plan: BatchPlan, at_once: int) -> Tensor:
    """TRL's layout through TRL's fused head, so many rows at a time."""
    image_token_id, made = model.config.image_token_id, []
    for rows, part in plan.parts(range(len(plan.groups)), at_once):
        ids = ids_BT[rows]
        fields = part.plain_fields(ids, image_token_id)
        counts = {name: fields.pop(name, None) for name in (*ROW_COUNTS, "batch_num_images")}
        labels = ids.clone()
        labels[:, :-n_keep] = -100
        with told_image_counts(model, counts["num_images"]):
            out = model(input_ids=ids, attention_mask=mask_BT[rows], **fields, labels=labels, fused_lm_head=True)
        made.append(out.log_probs[:, -n_keep:])
    return torch.cat(made)


def _computed(
    model: Any, logps_of: Callable[[], Tensor], seed: int, old_BR: Tensor | None = None
) -> tuple[Tensor, float, dict[str, Tensor]]:
    """Log-probabilities, the GRPO loss with a KL term, and its gradients by name (moved off the model). `old_BR`: of the policy
    that sampled (default: its own)."""
    model.zero_grad(set_to_none=True)
    logps_BR = logps_of()
    draw = torch.Generator().manual_seed(seed)
    advantages_B1 = torch.randn(logps_BR.shape[0], 1, generator=draw).to(logps_BR.device)
    old_BR = logps_BR.detach() if old_BR is None else old_BR
    # A reference apart from the policy, so that the KL term has a gradient of its own.
    gap = old_BR + 0.1 * torch.sin(torch.arange(logps_BR.numel(), device=logps_BR.device).view_as(logps_BR)) - logps_BR
    per_token = -torch.exp(logps_BR - old_BR) * advantages_B1 + BETA * (torch.exp(gap) - gap - 1)
    loss = per_token.mean()
    loss.backward()  # type: ignore[no-untyped-call]
    kept = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    model.zero_grad(set_to_none=True)
    return logps_BR.detach(), float(loss.detach()), kept


def _gap(own: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """Relative L2 and cosine of gradients, of all weights, and of the vision encoder's apart."""
    sums = {"grad": [0.0] * 4, "tower_grad": [0.0] * 4}
    for name in own.keys() & other.keys():
        a, b = own[name].float(), other[name].float()
        values = [float(x) for x in ((a - b).square().sum(), a.square().sum(), b.square().sum(), (a * b).sum())]
        for key in ("grad", "tower_grad") if is_vision_weight(name) else ("grad",):
            sums[key] = [x + y for x, y in zip(sums[key], values, strict=True)]
    found: dict[str, float] = {}
    for key, (gap, a2, b2, ab) in sums.items():
        if b2:
            found |= {f"{key}_rel_l2": (gap / b2) ** 0.5, f"{key}_cosine": ab / (a2 * b2) ** 0.5}
    return found


@torch.no_grad()
def _tokens(case: Case, loaded: Any, ids_BT: Tensor, plan: BatchPlan, route: Callable[[bool], None]) -> bool:
    """Whether greedy and sampled tokens are those of `generate` on repeated prompts, under the same seed."""
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    prompts = ids_BT[:, : -case.completion_tokens]
    fields = plan.plain_fields(prompts, model.config.image_token_id)
    fields = {name: value for name, value in fields.items() if name not in ROW_COUNTS}
    made = []
    n = min(N_TOKENS_COMPARED, case.completion_tokens)
    for sample in (False, True):
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=n, min_new_tokens=n, do_sample=sample, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id, suppress_tokens=sorted(_never_written(loaded)),
            **({"top_k": 0} if sample else {}),
        )  # fmt: skip
        mask = torch.ones_like(prompts)
        route(False)
        torch.manual_seed(case.seed)
        plain = model.generate(input_ids=prompts, attention_mask=mask, generation_config=config, **fields)
        route(True)
        torch.manual_seed(case.seed)
        once = shared_rollout.rollout(model, prompts[:1], mask[:1], plan.groups, plan.image_batch, case.group, config)
        made.append(bool(torch.equal(plain, once)))
    model.train()
    return all(made)
