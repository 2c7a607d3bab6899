"""GRPO through TRL's `GRPOTrainer`, with what a long run needs: checkpoints that survive a kill, one readable line a step,
every completion on disk with its score and why, and what TRL lacks: prompts and images run once a group, dynamic sampling,
batches that mix text and images, guided thoughts, episodes of many steps.

This file puts the stations together (`batch.py` names them); `adapter.py` lets TRL run them. The mathematics (advantages, loss,
KL) is TRL's, untouched.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PrinterCallback
from transformers.trainer_callback import ProgressCallback
from trl.models import unwrap_model_for_generation  # type: ignore[attr-defined]
from trl.trainer.grpo_config import GRPOConfig

from vlrl.models.inputs import Samples, dataset
from vlrl.models.load import LoadedModel, vision_token_ids
from vlrl.models.prefix_sharing.step import start_sharing
from vlrl.models.vision_encoder import freeze_vision as freeze
from vlrl.models.vision_encoder import with_targets
from vlrl.rewards.implicit_reward import PRIME, Prime
from vlrl.rewards.judge_model import may_lack_scores
from vlrl.rewards.model_reward import pays_steps
from vlrl.schema import Reward, Sample, Task
from vlrl.training.checkpoints import RunStopped, write_together
from vlrl.training.evaluation import HeldOut, best_metric, evaluation_line
from vlrl.training.evaluation_flags import PREFIX
from vlrl.training.events import Event, EventLog
from vlrl.training.flight_recorder import LastBatch
from vlrl.training.grpo.adapter import Adapter
from vlrl.training.grpo.batch import Batch, MicroBatch
from vlrl.training.grpo.corrections import Corrections, Guide
from vlrl.training.grpo.costs import HeldBack
from vlrl.training.grpo.endpoint_failures import EndpointFailures
from vlrl.training.grpo.episodes import Curriculum, Episodes
from vlrl.training.grpo.imitation import Imitation
from vlrl.training.grpo.implicit_reward import ImplicitReward, check_features, learning_model
from vlrl.training.grpo.logprobs import Logprobs
from vlrl.training.grpo.micro_batches import StepParts
from vlrl.training.grpo.resample import Resample
from vlrl.training.grpo.resume import KeptGeneration
from vlrl.training.grpo.rollout import GroupSharing, Rollout, without_tokens
from vlrl.training.grpo.rollout_engine import connect_engine, engine_made
from vlrl.training.grpo.sampler_check import LOGP_BOUND
from vlrl.training.grpo.scores import RewardFunctions, Verdicts, too_large
from vlrl.training.grpo.served_generation import ServedGeneration
from vlrl.training.grpo.step_credits import StepCredits
from vlrl.training.grpo.thoughts import Thoughts
from vlrl.training.grpo.vllm_prompts import ColocatedPrompts
from vlrl.training.guarded_trainer import GuardedTrainer
from vlrl.training.metrics_log import EARLY_STOPPED, append_row
from vlrl.training.monitor import Monitor, StopOnHacking
from vlrl.training.progress import StepLog, grpo_columns, write_completions
from vlrl.training.run_history import RewardFacts, RunFacts
from vlrl.training.unused_weights import finds_unused, leaves_weights_unused

NOT_SAMPLED = ("probability tensor contains", "device-side assert")
"""What PyTorch says when it draws from probabilities that are not finite: on a CPU, and on a GPU, where the words of the
assertion go to the console and other faults have the same name."""
N_PROBES = 6
"""How often in a run sensitivity is measured, the first and last logged step among them."""


class Trainer(GuardedTrainer, Adapter):
    """`GRPOTrainer` on `Samples`, each with the prompt of its own task, scored by vlrl's rewards.

    `base`: the reward whose value those that need one build on. `applies`: which reward scores which sample (default: each one
    every sample it can score). `dynamic_sampling`: at most so many more rounds of generation a batch, in which groups of
    equal rewards are replaced (0: off). `freeze_vision`: train the language model only. `group_shared`: run prompts and images
    once a group where that is possible ("auto"), or refuse to run otherwise ("on", raises NotShared), or never ("off");
    `group_shared_kernel`: by this attention (`vlrl.models.prefix_sharing.attention.KERNELS`), or raise NotShared.
    `guide`: how thoughts are corrected, imitated and weighed. `episodes`: the samples are episodes. `curriculum`: easier deals
    first. `events`: where the run's events go. `on_endpoint_failure`: "skip" or "stop", see
    `vlrl.training.grpo.endpoint_failures`. `held_out`: what `--eval_strategy` measures. `engine_logp_bound`: see
    `vlrl.training.grpo.sampler_check`. `weights_folder`: where a vLLM server reads the weights, None for TRL's ways.
    `rollout_lag`: see `vlrl.training.grpo.rollout_lag`. `monitor`: watches what the reward means; with `stop_on_hacking`
    it ends the run. `held_back`: what holds the policy back beside TRL's KL. `prime`: the implicit reward.
    """

    implicit: ImplicitReward | None = None

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
        group_shared_kernel: str = "auto",
        guide: Guide = Guide(),  # noqa: B008 (frozen)
        episodes: bool = False,
        curriculum: Curriculum | None = None,
        events: EventLog | None = None,
        on_endpoint_failure: str = "skip",
        held_out: HeldOut | None = None,
        engine_logp_bound: float = LOGP_BOUND,
        weights_folder: Path | None = None,
        rollout_lag: int = 0,
        monitor: Monitor | None = None,
        stop_on_hacking: bool = False,
        held_back: HeldBack = HeldBack(),  # noqa: B008 (frozen)
        prime: Prime | None = None,
    ) -> None:
        banned = vision_token_ids(loaded)
        args = self._ready(loaded, without_tokens(args, banned), samples, freeze_vision)
        beta, own_rewards, rewards = args.beta, rewards, [*rewards, *(cost.reward for cost in held_back.costs)]
        args = held_back.as_arguments(args, len(own_rewards), reference=prime is not None)
        learning = prime and learning_model(loaded.model, prime, args, peft_config, freeze_vision=freeze_vision)
        verdicts: Verdicts | None = {} if dynamic_sampling > 0 and any("network" in one.needs for one in rewards) else None
        self.scores = RewardFunctions(
            rewards, loaded, banned, ends=lambda: self.ends, base=base, applies=applies, verdicts=verdicts
        )
        self.steps = StepLog("step", grpo_columns([reward.name for reward in rewards]))
        with engine_made(weights_folder, loaded.processor, colocates=self.colocated is not None):
            super().__init__(
                model=loaded.model,
                processing_class=loaded.processor,
                reward_funcs=self.scores.functions,
                args=args,
                train_dataset=dataset(samples, tasks),
                peft_config=with_targets(peft_config, freeze_vision),
                eval_dataset=None if held_out is None else dataset(held_out.samples, tasks),
            )
        self.beta = self.args.beta = beta
        self.held_out = held_out
        self._begin_records(own_rewards, events, curriculum)
        if any(map(pays_steps, rewards)):
            weights, lacking = self.reward_weights.tolist(), list(map(may_lack_scores, rewards))
            self.step_credits = StepCredits(self, weights, lacking, partial(loaded.tokenizer.decode, skip_special_tokens=True))
        self.failures = EndpointFailures(self, on_endpoint_failure, rewards, guide.corrector, events, self.safe)
        self._compose_batches((group_shared, group_shared_kernel), dynamic_sampling, verdicts, by_row=episodes)
        connect_engine(self, engine_logp_bound, rollout_lag, self.safe, ahead=not episodes and dynamic_sampling == 0)
        known = {**tasks, **({} if curriculum is None else {curriculum.task.name: curriculum.task})}
        self._compose_thoughts(loaded, guide, Thoughts(known, guide.options, loaded.tokenizer, lambda: self.ends), rewards)
        self.episodes = Episodes(self, self.corrections, rewards, loaded, curriculum) if episodes else None
        self._hold_back(held_back)
        if prime is not None:
            check_features(self.sharing.how.frozen, self.policy, learning, prime)
            self.implicit = ImplicitReward(self, self.logprobs, learning, prime, self.reward_weights.tolist(), rewards)
            self.step_credits, self.needs_reference = self.implicit, True
        self.monitor = monitor
        self.checkpoint_parts = [KeptGeneration(self, self.sharing), self.corrections]
        self.checkpoint_parts += [part for part in (monitor, self.costs, self.implicit) if part is not None]
        self.hacking = StopOnHacking()
        if stop_on_hacking:
            self.add_callback(self.hacking)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)

    def _ready(self, loaded: LoadedModel, args: GRPOConfig, samples: Samples, freeze_vision: bool) -> GRPOConfig:
        """What must be so before TRL sees the model: what of it is frozen, what DDP expects of it, what vLLM is handed."""
        if freeze_vision:
            frozen = freeze(loaded.model)
            if PartialState().is_main_process:
                print(frozen, flush=True)
        colocates = args.use_vllm and args.vllm_mode == "colocate"
        self.colocated = ColocatedPrompts(loaded.processor) if colocates else None
        args.ddp_find_unused_parameters = finds_unused(args, lambda: leaves_weights_unused(loaded.model, samples))
        return args

    def _begin_records(self, rewards: Sequence[Reward], events: EventLog | None, curriculum: Curriculum | None) -> None:
        """What the run notes of itself from its first step on."""
        ranges = tuple(RewardFacts(reward.name, reward.low, reward.high) for reward in rewards)
        moves = curriculum is not None or any("step" in reward.needs for reward in rewards)
        self.record_to(events, RunFacts("grpo", ranges, self.args.max_completion_length, moves))
        self._started: tuple[float, int] | None = None
        self._next_probe = 0

    def _compose_batches(self, share: tuple[str, str], max_rounds: int, verdicts: Verdicts | None, *, by_row: bool) -> None:
        """The stations from prompts to log-probabilities. `share`: `group_shared` and its kernel. `by_row`: rows need not be
        groups."""
        args, (mode, kernel) = self.args, share
        how = start_sharing(
            self.policy,
            self.ref_model and self.accelerator.unwrap_model(self.ref_model),
            mode=mode,
            device=self.accelerator.device,
            compute_dtype=torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None,
            sharded=self.is_sharded,
            n_processes=self.accelerator.num_processes,
            batch=(1, 1, 1) if by_row else (args.per_device_train_batch_size, args.steps_per_generation, self.num_generations),
            autocast=self.accelerator.autocast,
            named_kernel=kernel,
            aux_loss=self.aux_loss_enabled,
        )
        self.sharing = GroupSharing(self, how, must=mode == "on", by_row=by_row)
        own_engine = self.use_vllm or self.use_transformers_continuous_batching
        self.rollout = Rollout(self, self.sharing, None if own_engine else self.generation_config, own_engine=own_engine)
        self.logprobs = Logprobs(self, self.sharing)
        if max_rounds:
            self.resample = Resample(
                self,
                max_rounds,
                write=self.write,
                plan=self.rollout.planned,
                open_row=self.train_dataset.__getitem__,
                n_samples=len(self.train_dataset),
                weights_R=self.reward_weights.numpy(),
                each=self.multi_objective_aggregation == "normalize_then_sum",
                verdicts=verdicts,
            )

    def _compose_thoughts(self, loaded: LoadedModel, guide: Guide, thoughts: Thoughts, rewards: Sequence[Reward]) -> None:
        """What guides thoughts, and what is imitated of them."""
        self.corrections = Corrections(self, guide, thoughts, rewards)
        imitation = Imitation(self, self.corrections, self.logprobs, loaded, self.temperature)
        self.extra_losses = [imitation]
        self.step_parts = StepParts(
            self,
            imitation,
            loss_type=self.loss_type,
            teaches_all=self.teaches_without_advantage or self.is_deepspeed_enabled or self.is_sharded,
            whole=self.is_deepspeed_enabled,
        )

    def _hold_back(self, held_back: HeldBack) -> None:
        """What holds the policy back beside TRL's KL, and which completions it learns from."""
        self.logprob_losses, self.needs_reference = held_back.terms(self), bool(held_back.chi2_coef)
        self.costs = held_back.multiplied()
        self.keeping = held_back.filtered(self, self.scores.rewards, self.reward_weights.tolist(), self.loss_type)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own; past it, however it ends, a server is asked for nothing more."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.use_vllm and isinstance(self.vllm_generation, ServedGeneration):
                self.vllm_generation.close()

    # -- a batch -------------------------------------------------------------------------------------------------------

    def batch_of(self, inputs: Sequence[Any]) -> Batch:
        """The batch of these rows. Raises RunStopped where the model's probabilities are not finite, so that nothing can be
        sampled from them, and where an endpoint is silent for too long."""
        try:
            batch = super().batch_of(inputs)
        except RuntimeError as error:
            if not any(words in str(error) for words in NOT_SAMPLED):
                raise
            self._stop_sampling(error)
        if self.is_training:
            self.failures.check()
            self._watch_rewards()
            if self.monitor is not None:
                self.monitor.watch(self, batch, self.reward_weights)
        return batch

    def check_rewards(self, rewards_BR: torch.Tensor, own_ids: list[str]) -> None:
        """Raises RunStopped, on every process alike, where a reward cannot be computed with."""
        places = too_large(rewards_BR, self.reward_weights)
        if not places:
            return
        ids = [one for rank in gather_object([own_ids]) for one in rank]
        row, column = places[0]
        name, value = self.reward_func_names[column], float(rewards_BR[row, column])
        self.finite.stop_at(
            self.state.global_step + 1,
            f"reward {name} is {value:g} (larger than advantages can be computed with)",
            list(dict.fromkeys(ids[i] for i, _ in places)),
            {"reward": name, "value": value},
            "scale that reward: values within -1 to 1 are usual",
        )

    def _stop_sampling(self, error: RuntimeError) -> NoReturn:
        """Not every process may have met it, so that each says so itself."""
        why = str(error).partition("\n")[0]
        quantity = f"the model's next-token probabilities are not finite ({why})"
        try:
            self.finite.stop_at(self.state.global_step + 1, quantity, [], {})
        except RunStopped as stopped:
            if not self.accelerator.is_main_process:
                print(f"stopped: {stopped}", file=sys.stderr, flush=True)
            raise stopped from error

    def _watch_rewards(self) -> None:
        """A batch in which no reward applied to any completion is an event at once."""
        rewards = self.metrics["reward"]
        if self.events is not None and rewards and math.isnan(rewards[-1]):
            ids = tuple(dict.fromkeys(self.completions_log["extra"]["id"]))
            n, names = len(self.completions_log["extra"]["id"]), ", ".join(self.reward_func_names)
            message = f"no reward ({names}) applied to any of the {n} completions of a batch"
            self.events.add_once(Event(self.state.global_step + 1, "no_rewards", message, ids, {"n": n}))

    def sample_ids(self, inputs: MicroBatch) -> list[str]:
        return inputs.sample_ids

    # -- measuring on the way ------------------------------------------------------------------------------------------

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """The tasks' own metrics on the held-out samples, each answered once, greedily; logged with `eval_` before their names.
        Takes the place of TRL's, which samples completions and averages rewards. Raises RunStopped where the metric that
        checkpoints are compared by has no value."""
        if self.held_out is None:
            raise ValueError("no held-out samples were given to measure")
        started, step = time.monotonic(), int(self.state.global_step)
        with unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model:
            found = dict(self.held_out.measure(step, model))
        seconds = time.monotonic() - started
        best = best_metric(self.args.metric_for_best_model, found)
        self.say_line(evaluation_line(step, found, self.held_out.samples.n, seconds, best))
        metrics = {f"{PREFIX}{name}": value for name, value in found.items()} | {f"{PREFIX}runtime": seconds}
        self.log_held_out(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def step_of_weights(self) -> int:
        """The step whose weights are held: the last one, or the best one once it is loaded at the end."""
        best = self.state.best_global_step if self.args.load_best_model_at_end else None
        return int(best or self.state.global_step)

    def note_early_end(self) -> None:
        """Write down that early stopping has ended this run, so that one that goes on has nothing left to train."""
        row = {"step": self.state.global_step, EARLY_STOPPED: self.state.max_steps}
        path = Path(self.args.output_dir) / "metrics.jsonl"
        write_together(path.parent, path.name, lambda: append_row(path, row))
        why = "--stop_on_hacking: training ends" if self.hacking.called else "early stopping"
        self.say_line(f"{why} after step {self.state.global_step} of {self.state.max_steps}: {self._best()}")

    def say_weights(self) -> None:
        """Which weights are kept, where these are not the last ones."""
        if self.step_of_weights != self.state.global_step:
            self.say_line(f"the weights of step {self.step_of_weights} are kept: {self._best()}")

    def _best(self) -> str:
        metric = str(self.args.metric_for_best_model).removeprefix(PREFIX)
        return f"{metric} was best in step {self.state.best_global_step} ({self.state.best_metric:.3f})"

    def say_line(self, line: str) -> None:
        """A line beside the table of steps, of the first process."""
        if self.accelerator.is_main_process:
            self.steps.say(line)

    # -- logging -------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._started is None:
            self._started = (time.monotonic(), max(self.state.global_step - 1, 0))
        if "loss" in logs and self.is_training:
            logs |= (
                self._model_shares() | self.failures.judge_counts() | self._thought_numbers() | self.failures.corrector_counts()
            )
        super().log(logs, start_time)
        write_together(str(self.args.output_dir), "the log of a step", lambda: self._write_step(logs))
        self.end_if_asked()

    def _model_shares(self) -> dict[str, float]:
        """The share of the steps' time that each reward's models took."""
        seconds = {name: self.metrics.get(f"rewards/{name}/seconds") for name in (*self.reward_func_names, PRIME)}
        total = sum(self.metrics.get("step_time") or [])
        return {f"rewards/{name}/time_share": sum(one) / total for name, one in seconds.items() if one and total}

    def _thought_numbers(self) -> dict[str, float]:
        """How alike thoughts are, and now and then how much they follow the image."""
        found = {f"thoughts/{name}": value for name, value in self.corrections.thoughts.window.report().items()}
        step, probe = self.state.global_step, self.corrections.guide.probe
        last = step >= self.state.max_steps - self.args.logging_steps
        if probe is not None and (last or step >= self._next_probe):
            self._next_probe = step + max(1, self.state.max_steps // (N_PROBES - 1))
            found["thoughts/sensitivity"] = probe(self.policy)
        return found

    def _write_step(self, logs: Mapping[str, Any]) -> None:
        row: dict[str, Any] = {"step": self.state.global_step, **logs}
        folder = Path(self.args.output_dir)
        append_row(folder / "metrics.jsonl", row)
        if "reward" in logs:
            write_completions(folder / "completions" / f"step_{row['step']:06d}.jsonl", row["step"], self.completions_log)
            eta_s = self._eta_s(row.get("step_time") or 0.0)
            self.steps.show(row, self.state.max_steps, eta_s)
        if any(name.startswith(PREFIX) for name in logs):
            return
        extra = self.completions_log["extra"]
        self.record(row, LastBatch(list(extra["id"]), list(extra["truncated"])))

    def _eta_s(self, step_time_s: float) -> float:
        started, first = self._started or (time.monotonic(), 0)
        done, left = self.state.global_step - first, self.state.max_steps - self.state.global_step
        return (time.monotonic() - started) / max(done - 1, 1) * left if done > 1 else step_time_s * left
