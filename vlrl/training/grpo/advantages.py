"""Station 4, advantages: TRL's within a group, or the credits of an episode's steps; costs are held against them, and thought
tokens may weigh less.

TRL computes the advantages of single answers (`scale_rewards`, `multi_objective_aggregation`) and pads rows on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn.utils.rnn import pad_sequence

from vlrl.gtr.masks import token_weights
from vlrl.training.grpo.batch import Batch, TrainerCalls
from vlrl.training.grpo.costs import Costs
from vlrl.training.grpo.regularisers import LogprobLoss, pair_sums
from vlrl.training.grpo.thoughts import Thoughts


def with_credits(batch: Batch) -> Batch:
    """The batch with the advantages that its rows bring along, if they do."""
    if batch.credits_B is None:
        return batch
    device = batch.made.advantages_B.device
    return batch.with_advantages(torch.tensor(batch.credits_B, device=device, dtype=torch.float32))


def held_back(batch: Batch, engine: TrainerCalls, costs: Costs | None, terms: Sequence[LogprobLoss]) -> Batch:
    """Costs are held against advantages; pairs are made of what comes of it, where a term asks for them."""
    if costs is not None:
        batch = with_costs(batch, engine, costs)
    return with_pairs(batch, engine) if any(term.replaces_policy for term in terms) else batch


def with_costs(batch: Batch, engine: TrainerCalls, costs: Costs) -> Batch:
    """The batch with advantages that its costs, the last columns of its scores, are held against; the completions log has them
    too. Every process calls this."""
    assert batch.scores_BR is not None, "costs are scored with the rewards"
    own_B = batch.made.advantages_B
    n = len(costs.costs)
    values_BK = engine.accelerator.gather(batch.scores_BR[:, -n:].to(own_B.device).contiguous())
    whole_B = costs.weigh(engine.accelerator.gather(own_B), values_BK, engine.num_generations, str(engine.args.scale_rewards))
    log = engine.completions_log["advantages"]
    log.clear()
    log.extend(whole_B.tolist())
    for name, value in costs.numbers().items():
        engine.note(name, value)
    return batch.with_advantages(_own(whole_B, engine, len(own_B)))


def with_pairs(batch: Batch, engine: TrainerCalls) -> Batch:
    """The batch with what each completion gains and loses against the others of its group. Every process calls this."""
    own_B = batch.made.advantages_B
    sums_B2 = pair_sums(engine.accelerator.gather(own_B), engine.num_generations)
    return replace(batch, tensors=replace(batch.made, pair_sums_B2=_own(sums_B2, engine, len(own_B))))


def _own(whole: torch.Tensor, engine: TrainerCalls, n: int) -> torch.Tensor:
    """The rows of this process among those of all."""
    start = engine.accelerator.process_index * n
    return whole[start : start + n]


def with_thoughts_weighed(batch: Batch, thoughts: Thoughts, masks: Sequence[Sequence[bool]]) -> Batch:
    """Advantages a token, (B, T), those of thought tokens (`masks`, row by row) times their weight; the batch as it is where
    none weighs less."""
    weights = [thoughts.weight(row["sample"]) for row in batch.rows]
    if all(weight == 1.0 for weight in weights):
        return batch
    advantages_B = batch.made.advantages_B
    rows = [
        torch.tensor(token_weights(mask, weight), device=advantages_B.device)
        for mask, weight in zip(masks, weights, strict=True)
    ]
    each = advantages_B if advantages_B.ndim == 2 else advantages_B[:, None]
    return batch.with_advantages(each * pad_sequence(rows, batch_first=True, padding_value=1.0))
