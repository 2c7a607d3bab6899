"""Station 4, the implicit reward (`prime`): each token is rewarded by the log-ratio of two models, one of which learns on the
way to predict outcomes.

Source: Cui et al., Process Reinforcement through Implicit Rewards (PRIME, arXiv 2502.01456). phi begins as the run's start,
which stays the reference. For completions y of a prompt:

- r_t = beta log(pi_phi(y_t | y_<t) / pi_ref(y_t | y_<t)), equation 3 (`token_rewards`);
- phi learns by the cross-entropy of sigmoid(sum_t r_t) against the outcome, 0 or 1 (`outcome_loss`), one step a generation,
  after the batch is rewarded as in algorithm 1, or before it (the paper's double forward);
- process returns: P_t = sum_{s>=t} (r_s - b_i), b_i the mean over the other completions of their mean r, the first sum of
  equation 5 with gamma 1 (`process_returns`).

differs: equation 5 adds the outcome's leave-one-out advantage and stops there. Here a token returns the run's weighted rewards
plus weight x P_t, and these returns have the advantages of `vlrl.training.grpo.step_credits`: less the mean of their group, by
the spread that `--scale_rewards` names. With "none" the outcome's part is (K - 1)/K of the paper's for K completions, and the
process part is less its group's mean. Prompts are filtered by accuracy only with `--dynamic_sampling`. Log-probabilities are at
the run's temperature. Weights of fewer than 32 bits have a copy of 32 that learns: steps of 1e-6 would round away.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from trl.trainer.utils import add_fused_lm_head

from vlrl.models.prefix_sharing.step import is_frozen
from vlrl.models.vision_encoder import freeze_vision as freeze
from vlrl.models.vision_encoder import with_targets
from vlrl.rewards.implicit_reward import PRIME, Prime
from vlrl.rewards.judge_model import may_lack_scores
from vlrl.schema import Reward, Score
from vlrl.training.checkpoints import RunStopped, write_together
from vlrl.training.grpo.batch import Batch, Tensors, TrainerCalls
from vlrl.training.grpo.logprobs import Logprobs
from vlrl.training.grpo.micro_batches import rows_of
from vlrl.training.grpo.step_credits import Return, StepCredits, returns_of
from vlrl.training.options import ConfigError
from vlrl.training.reward_models.prime_start import with_weights_of
from vlrl.training.weights import put_in_place

PRIME_STATE = "prime.pt"
"""What a checkpoint holds of the model that learns."""
LARGEST_GRADIENT = 10.0
"""Gradients are cut to this length, as in the paper's released code."""


def token_rewards(logps_BT: Tensor, ref_logps_BT: Tensor, mask_BT: Tensor, beta: float) -> Tensor:
    """r_t (B, T), 0 behind the ends of completions."""
    return beta * (logps_BT - ref_logps_BT).masked_fill(mask_BT == 0, 0.0)


def outcome_loss(sums_B: Tensor, labels_B: Tensor) -> Tensor:
    """The cross-entropies of sigmoid(sum of r), added up over completions with a label (not NaN)."""
    known_B = ~labels_B.isnan()
    return nn.functional.binary_cross_entropy_with_logits(sums_B[known_B], labels_B[known_B], reduction="sum")


def process_returns(rewards: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """P_t of each completion of a group, by the rewards of its tokens; a completion without tokens has none and is no one's
    baseline."""
    means = [math.fsum(one) / len(one) if one else None for one in rewards]
    known = [mean for mean in means if mean is not None]
    found = []
    for one, mean in zip(rewards, means, strict=True):
        others = len(known) - 1
        baseline = (math.fsum(known) - mean) / others if mean is not None and others else 0.0
        left, returns = 0.0, []
        for reward in reversed(one):
            left += reward - baseline
            returns.append(left)
        found.append(tuple(reversed(returns)))
    return found


@dataclass(frozen=True)
class Predicted:
    """How well sums of r tell outcomes apart. `accuracy`: the share on the right side of 0, a half at 0; `base_rate`: the share
    of the commoner outcome; `pair_accuracy`: within groups, the share of pairs of different outcomes in the right order; NaN
    where nothing can be told apart."""

    accuracy: float
    base_rate: float
    pair_accuracy: float

    @classmethod
    def of(cls, sums: Sequence[float], labels: Sequence[float], group: int) -> Predicted:
        """`labels`: 0 or 1, NaN where it is not known; groups adjacent."""
        known = [(value, label) for value, label in zip(sums, labels, strict=True) if not math.isnan(label)]
        if not known:
            return cls(math.nan, math.nan, math.nan)
        right = [_share_above(value if label else -value) for value, label in known]
        ones = sum(label for _, label in known) / len(known)
        pairs = []
        for start in range(0, len(sums), group):
            rows = range(start, min(start + group, len(sums)))
            pairs += [_share_above(sums[i] - sums[j]) for i in rows for j in rows if labels[i] == 1 and labels[j] == 0]
        mean = math.fsum(pairs) / len(pairs) if pairs else math.nan
        return cls(math.fsum(right) / len(right), max(ones, 1 - ones), mean)


def _share_above(value: float) -> float:
    return 0.5 if value == 0 else float(value > 0)


def learning_model(start: Any, prime: Prime, args: Any, peft_config: Any = None, *, freeze_vision: bool = False) -> Any:
    """phi: a copy of the model that a run starts from (or what lies in the folder that was named), to be trained as the run
    trains its own: with adapters, a frozen vision encoder, layers computed again. Without dropout: one pass both rewards and
    teaches. Raises ConfigError, ModelError."""
    folder = prime.options.folder
    model = with_weights_of(folder, start) if folder else copy.deepcopy(start)
    if freeze_vision:
        freeze(model)
    add_fused_lm_head(model, temperature=args.temperature)
    if peft_config is not None:
        from peft import get_peft_model

        with torch.random.fork_rng():
            torch.manual_seed(int(args.seed))  # processes draw alike
            model = get_peft_model(model, with_targets(peft_config, freeze_vision))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, **(args.gradient_checkpointing_kwargs or {})})
    return model.train()


def check_features(frozen: bool, policy: Any, learning: Any, prime: Prime) -> None:
    """Where the features of a frozen vision encoder serve all passes, both models have the same one. Raises ConfigError."""
    if frozen and not is_frozen(policy, learning):
        raise ConfigError(
            f"reward {PRIME}: the vision encoder of {prime.options.folder} is another one than the run's, which is frozen and"
            " runs once for both; train the encoder, name another folder, or --group_shared off"
        )


class LearntModel:
    """phi and its optimizer (AdamW, no weight decay, a constant rate). Its gradients are the mean over processes' completions,
    its state is a part of each checkpoint."""

    def __init__(self, model: Any, lr: float, accelerator: Any) -> None:
        self.model, self.accelerator = model, accelerator
        self.trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.exact = [p if p.dtype == torch.float32 else p.detach().float() for p in self.trained.values()]
        self.optimizer = torch.optim.AdamW(self.exact, lr=lr, weight_decay=0.0)

    def step(self) -> float:
        """One step along the gradients that all processes have gathered; returns their length before it was cut."""
        for weight, exact in zip(self.trained.values(), self.exact, strict=True):
            found = torch.zeros_like(exact) if weight.grad is None else weight.grad.float()
            exact.grad = self.accelerator.reduce(found, reduction="sum")
        length = float(nn.utils.clip_grad_norm_(self.exact, LARGEST_GRADIENT))
        if math.isfinite(length):
            self.optimizer.step()
            with torch.no_grad():
                for weight, exact in zip(self.trained.values(), self.exact, strict=True):
                    if weight is not exact:
                        weight.copy_(exact)
        self.model.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)
        return length

    def state(self) -> dict[str, Any]:
        weights = dict(zip(self.trained, (one.detach() for one in self.exact), strict=True))
        return {"weights": weights, "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Raises KeyError, ValueError, RuntimeError for the state of another model."""
        if state["weights"].keys() != self.trained.keys():
            raise ValueError("its weights have other names")
        with torch.no_grad():
            for (name, weight), exact in zip(self.trained.items(), self.exact, strict=True):
                exact.copy_(state["weights"][name])
                weight.copy_(exact)
        self.optimizer.load_state_dict(state["optimizer"])


class ImplicitReward(StepCredits):
    """Rewards the tokens of a batch by phi and lets phi learn from it. `others`: the run's other rewards, in their order."""

    def __init__(
        self,
        engine: TrainerCalls,
        logprobs: Logprobs,
        model: Any,
        prime: Prime,
        weights_R: Sequence[float],
        others: Sequence[Reward],
    ) -> None:
        super().__init__(engine, weights_R, list(map(may_lack_scores, others)), lambda _ids: "")
        self.logprobs, self.prime, self.column = logprobs, prime, prime.column([one.name for one in others])
        self.learnt = LearntModel(model.to(engine.accelerator.device), prime.options.lr, engine.accelerator)

    def __call__(self, batch: Batch, scores: Sequence[Sequence[Score | None]]) -> Batch:
        """The batch with advantages (B, T); every process calls this. Raises RunStopped where phi's loss is not finite."""
        started = time.monotonic()
        made = batch.made
        assert batch.scores_BR is not None
        outcomes_B = batch.scores_BR[:, self.column].to(made.advantages_B.device)
        labels_B = torch.where(outcomes_B.isnan(), math.nan, (outcomes_B >= self.prime.options.threshold).float())
        rewards_BT = self._learn(batch, labels_B)
        lengths = made.completion_mask_BT.sum(1).tolist()
        own = [(row[:n], label) for row, n, label in zip(rewards_BT.tolist(), lengths, labels_B.tolist(), strict=True)]
        others_BR, known, first = self.of_everyone(batch, own)
        self._note([math.fsum(tokens) for tokens, _ in known], [label for _, label in known])
        group = self.engine.num_generations
        returns: list[Return] = []
        for start in range(0, len(known), group):
            paid = process_returns([tokens for tokens, _ in known[start : start + group]])
            for rewards_R, tokens in zip(others_BR[start : start + group].tolist(), paid, strict=True):
                (whole,) = returns_of(rewards_R, self.weights_R, [None] * len(rewards_R)).steps
                returns.append(Return(tuple(whole + self.prime.weight * token for token in tokens) or (whole,)))
        advantages = self.advantages(returns)[first : first + len(own)]
        advantages_BT = torch.zeros(made.completion_ids_BT.shape, device=made.advantages_B.device)
        for i, row in enumerate(advantages):
            advantages_BT[i, : len(row)] = torch.tensor(row)
        self.engine.note(f"rewards/{PRIME}/seconds", time.monotonic() - started)
        return batch.with_advantages(advantages_BT)

    def _learn(self, batch: Batch, labels_B: Tensor) -> Tensor:
        """The rewards of tokens (B, T), and one step of phi."""
        n = sum(gather_object([int((~labels_B.isnan()).sum())]))
        rewards_BT = torch.zeros(batch.made.completion_ids_BT.shape, device=labels_B.device)
        total = 0.0
        for rows, part, logps_BT in self._passes(batch):
            paid_BT = self._paid(part, logps_BT)
            loss = outcome_loss(paid_BT.sum(1), labels_B[rows]) / max(1, n)
            loss.backward()
            rewards_BT[rows] = paid_BT.detach()
            total += float(loss.detach())
        total = sum(gather_object([total]))
        length = self.learnt.step() if n else 0.0
        if not math.isfinite(total) or not math.isfinite(length):
            raise RunStopped(
                f"the loss of the model of reward {PRIME} is {total:g} and its gradient {length:g} in step"
                f" {int(self.engine.state.global_step) + 1}, so it cannot learn on; lower its learning rate (prime:lr=...)"
            )
        if n:
            self.engine.note(f"{PRIME}/loss", total)
            self.engine.note(f"{PRIME}/grad_norm", length)
        if self.prime.options.update == "before" and n:
            with torch.no_grad():
                for rows, part, logps_BT in self._passes(batch):
                    rewards_BT[rows] = self._paid(part, logps_BT)
        return rewards_BT

    def _paid(self, part: Tensors, logps_BT: Tensor) -> Tensor:
        assert part.ref_logps_BT is not None, "the trainer asks the reference"
        return token_rewards(logps_BT.float(), part.ref_logps_BT.float(), part.completion_mask_BT, self.prime.options.beta)

    def _passes(self, batch: Batch) -> Iterator[tuple[list[int], Tensors, Tensor]]:
        """Rows that pass through phi together, as the policy's do, with their log-probabilities (B, T)."""
        made, plan, at_once = batch.made, batch.plan, int(self.engine.args.per_device_train_batch_size)
        if plan is not None:
            cut: list[tuple[list[int], Any]] = [*plan.parts(range(len(plan.groups)), at_once)]
        else:
            cut = [(list(range(i, min(i + at_once, len(made)))), None) for i in range(0, len(made), at_once)]
        for rows, own in cut:
            part = made.of_rows(rows) if own is not None else rows_of(made, rows, self.engine.policy)
            ids_BT, mask_BT = part.all_ids()
            fields: dict[str, Any] = dict(part.images or {})
            n_keep = part.completion_ids_BT.shape[1]
            yield rows, part, self.logprobs(own, self.learnt.model, ids_BT, mask_BT, n_keep, **fields)[0]

    def _note(self, sums: Sequence[float], labels: Sequence[float]) -> None:
        """What is logged of all processes' completions."""
        found = Predicted.of(sums, labels, self.engine.num_generations)
        mean = math.fsum(sums) / len(sums)
        spread = math.sqrt(math.fsum((one - mean) ** 2 for one in sums) / max(1, len(sums) - 1))
        numbers = {f"rewards/{PRIME}/mean": mean, f"rewards/{PRIME}/std": spread, f"{PRIME}/accuracy": found.accuracy}
        numbers |= {f"{PRIME}/base_rate": found.base_rate, f"{PRIME}/pair_accuracy": found.pair_accuracy}
        numbers[f"{PRIME}/labelled"] = sum(not math.isnan(label) for label in labels) / len(labels)
        for name, value in numbers.items():
            if not math.isnan(value):
                self.engine.note(name, value)
        self.engine.completions_log["rewards"][PRIME].extend(sums)

    # -- checkpoints and the end of a run ------------------------------------------------------------------------------

    def save(self, checkpoint: Path) -> None:
        if PartialState().is_main_process:
            torch.save(self.learnt.state(), checkpoint / PRIME_STATE)

    def restore(self, checkpoint: Path) -> None:
        """Go on with a checkpoint's model. Raises RunStopped where it is not there or is another one's."""
        path, device = checkpoint / PRIME_STATE, self.engine.accelerator.device
        try:
            kept = torch.load(path, map_location="cpu" if device.type == "cpu" else device, weights_only=True)
            self.learnt.load_state(kept)
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, UnpicklingError) as error:
            why = "is missing" if not path.is_file() else f"cannot be used ({str(error).partition(chr(10))[0]:.200})"
            raise RunStopped(
                f"{path} {why}: the model of reward {PRIME} would begin anew; go on from another checkpoint, with the rewards"
                " that the run was started with"
            ) from error

    def save_final(self, folder: Path, processor: Any) -> None:
        """`prime/` in the run's folder: phi, adapters merged; loads with `from_pretrained`, and as `prime:FOLDER`."""
        final, partial = folder / PRIME, folder / f"{PRIME}.partial"

        def save() -> None:
            model = self.learnt.model
            if hasattr(model, "peft_config"):
                model = copy.deepcopy(model).merge_and_unload()
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
            put_in_place(partial, final)

        write_together(folder, f"{PRIME}/", save)
