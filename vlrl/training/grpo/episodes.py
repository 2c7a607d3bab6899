"""Multi-turn GRPO: a group is G episodes from one deal, every step of which is a row with its own prompt and image.

Episodes of a batch are played side by side. Their steps are credited by the game's rewards (`vlrl.gtr.credit`) and handed to
TRL as one batch of single completions, whose prompts and images are those that the policy saw.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages

from vlrl.envs import CardEnv
from vlrl.envs.cards import thought_fields
from vlrl.envs.cards.deals import deal_of, state_sample
from vlrl.gtr.corrector import Correction, StepRequest
from vlrl.gtr.diagnostics import StepNote
from vlrl.gtr.episodes import Episode
from vlrl.gtr.named_moves import correctors_move
from vlrl.models.inputs import messages
from vlrl.schema import Sample, Task
from vlrl.training.grpo.dynamic_sampling import GeneratedRow
from vlrl.training.grpo.imitation import ScoredRows
from vlrl.training.grpo.micro_batches import StepBatches
from vlrl.training.grpo.shared_logprobs import SharedGroups


@dataclass(frozen=True)
class Curriculum:
    """The first `share` of a run's steps is played on deals of another task."""

    task: Task
    share: float


@dataclass
class Trajectory:
    """One episode of a batch, step by step: prompts, replies, a corrector's verdicts, advantages."""

    sample: Sample
    episode: Episode
    guided: bool = False
    """Whether the corrector's moves are played in place of the policy's."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    generated: list[GeneratedRow] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    verdicts: list[Correction | None] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)

    @property
    def moves(self) -> tuple[str, ...]:
        return tuple(step.token for step in self.episode.steps if step.token is not None)

    def request(self) -> StepRequest:
        """The request to a corrector about the last reply, before it is played."""
        return replace(self.episode.request(self.texts[-1], self.ended[-1]), sample=self.rows[-1]["sample"])

    def step(self) -> None:
        """Play the last reply; in a guided episode, the corrector's move in its place."""
        text, verdict, game = self.texts[-1], self.verdicts[-1], self.episode.env.game
        instead = correctors_move(text, verdict, game) if self.guided and verdict is not None else None
        self.episode.step(text, self.ended[-1], verdict, instead)


class Episodes(StepBatches):
    """`GuidedThoughts` that plays the episodes among its samples."""

    _curriculum: Curriculum | None = None
    _n_guided = 0
    """How many of each group's episodes are guided by the corrector."""
    _step_scores: torch.Tensor | None = None
    _step_advantages: list[float] | None = None
    """Of the rows in hand, where they are steps: their rewards as logged, and their advantages."""

    def _start_playing(self, curriculum: Curriculum | None) -> None:
        self._has_episodes, self._curriculum = True, curriculum
        rows = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if rows % self.num_generations:
            raise ValueError(
                f"{rows} episodes a process are not whole groups of num_generations={self.num_generations}; make"
                " per_device_train_batch_size x steps_per_generation a multiple of it"
            )
        cut, self._n_guided = self._guide.options.cut, self._guide.options.n_guided(self.num_generations)
        how = {"none": "never cut", "reward": "cut below a reward of 0"}.get(cut, "cut where they leave a corrector's formula")
        guided = f"; {self._n_guided} of them guided by the corrector, for imitation alone" if self._n_guided else ""
        self._log_line(f"episodes  {rows} side by side on each process, {self.num_generations} from each deal{guided}, {how}")

    # -- playing -------------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Episodes: play them to their ends, then hand their steps to TRL as a batch of single completions."""
        if not self._has_episodes or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        trajectories = [self._new_trajectory(row, i % self.num_generations) for i, row in enumerate(inputs)]
        self._run_episodes(trajectories)
        moves = gather_object([sum(len(trajectory.rows) for trajectory in trajectories)])
        self._metrics["train"]["episodes/moves"].append(float(sum(moves)))
        if self._set is not None:
            self._store_corrections(trajectories)
        trajectories = [trajectory for trajectory in trajectories if not trajectory.guided]
        self._credit(trajectories)
        steps = [(trajectory, t) for trajectory in trajectories for t in range(len(trajectory.rows))]
        n_most = max(gather_object([len(steps)]))
        padded = [*steps, *[steps[0]] * (n_most - len(steps))]  # processes must bring equally many rows
        self._handed = [(trajectory.rows[t], trajectory.generated[t]) for trajectory, t in padded]
        self._step_scores = torch.tensor(
            [self._scores(trajectory, t) for trajectory, t in padded], device=self.accelerator.device
        )
        # TRL keeps as many rows of its log as a generation has completions; these are all steps.
        self._logs |= {name: deque() for name in ("images", "prompt", "completion", "advantages")}
        self._logs |= {name: defaultdict(deque) for name in ("rewards", "extra")}
        self._step_advantages = [trajectory.advantages[t] for trajectory, t in padded]
        group, self.num_generations = self.num_generations, 1
        try:
            batch = super()._generate_and_score_completions([row for row, _ in self._handed])
        finally:
            self.num_generations, self._step_scores, self._step_advantages = group, None, None
        self._log_episodes(trajectories, n_most)
        # Rows that only fill up count for nothing, and the others for as much more.
        batch["completion_mask"][len(steps) :] = 0
        n_tokens, n_steps = batch["completion_mask"].sum(), torch.tensor(len(steps), device=self.accelerator.device)
        batch["num_items_in_batch"] = self.accelerator.gather(n_tokens).sum()
        self._filled = n_most * self.accelerator.num_processes / float(self.accelerator.gather(n_steps).sum())
        return batch

    def _new_trajectory(self, row: dict[str, Any], number: int) -> Trajectory:
        sample: Sample = row["sample"]
        now = self._curriculum
        if now is not None and self.state.global_step < now.share * self.state.max_steps:
            sample = now.task.draw(self.args.seed, "train", int(row["index"]))
        deal, options = deal_of(sample), self._guide.options
        env = CardEnv(deal.game.name, **sample.meta.get("game", {}))
        episode = Episode(env, deal.seed, number, illegal=options.illegal, truncation=options.cut)
        return Trajectory(sample, episode, guided=number < self._n_guided)

    @property
    def _n_own(self) -> int:
        """Of each group's episodes, how many the policy plays itself."""
        return self.num_generations - self._n_guided

    def _run_episodes(self, trajectories: Sequence[Trajectory]) -> None:
        """Play all episodes to their ends, one reply of each at a time. Corrections are made once all are over, so that they do
        not delay the playing, unless they decide what is played or when an episode is cut."""
        cuts = self._guide.options.cut == "target"
        while True:
            live = [trajectory for trajectory in trajectories if not trajectory.episode.done]
            n_most = max(gather_object([len(live)]))
            if not n_most:
                break
            for trajectory in live:
                trajectory.rows.append(self._step_row(trajectory))
            rows = [trajectory.rows[-1] for trajectory in live] or [trajectories[0].rows[0]]
            replies = self._write([*rows, *[rows[0]] * (n_most - len(rows))])[: len(live)]
            texts = self.processing_class.batch_decode([one.ids for one in replies], skip_special_tokens=True)
            for trajectory, reply, text in zip(live, replies, texts, strict=True):
                trajectory.generated.append(reply)
                trajectory.texts.append(text)
                trajectory.ended.append(self._has_ended(reply.ids))
                trajectory.verdicts.append(None)
            now = [trajectory for trajectory in live if cuts or trajectory.guided]
            for trajectory, verdict in zip(now, self._corrections([trajectory.request() for trajectory in now]), strict=True):
                trajectory.verdicts[-1] = verdict
            for trajectory in live:
                trajectory.step()
        if self._set is not None and not cuts:
            self._correct_steps([trajectory for trajectory in trajectories if not trajectory.guided])

    def _step_row(self, trajectory: Trajectory) -> dict[str, Any]:
        sample = state_sample(trajectory.sample, trajectory.moves, good=False)
        return {
            "prompt": messages(sample, {**self._tasks, **self._easier}),
            "images": [trajectory.episode.observation],
            "sample": sample,
            "index": -1,
        }

    def _task(self, name: str) -> Task:
        return self._easier.get(name) or super()._task(name)

    @property
    def _easier(self) -> dict[str, Task]:
        return {} if self._curriculum is None else {self._curriculum.task.name: self._curriculum.task}

    def _write(self, rows: Sequence[dict[str, Any]]) -> list[GeneratedRow]:
        """One sampled reply for each row, by TRL's own generation."""
        prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
        prompt_ids, images, fields = super(SharedGroups, self)._tokenize_prompts(prompts)
        ids, logprobs = super(SharedGroups, self)._generate_single_turn(prompt_ids, images, fields, 1)
        return [GeneratedRow(*row) for row in zip(prompt_ids, ids, logprobs or [None] * len(ids), strict=True)]

    # -- corrections ---------------------------------------------------------------------------------------------------

    def _correct_steps(self, trajectories: Sequence[Trajectory]) -> None:
        """Verdicts on the steps of all episodes, first steps first, since the formula that an episode heads for is kept."""
        chosen = self._steps_to_correct(trajectories)
        for t in range(max(len(trajectory.rows) for trajectory in trajectories)):
            places = [one for i, one in enumerate(trajectories) if t < len(one.rows) and (i, t) in chosen]
            requests = [self._step_request(one, t) for one in places]
            for trajectory, verdict in zip(places, self._corrections(requests), strict=True):
                trajectory.verdicts[t] = verdict
                trajectory.episode.target = verdict.target or trajectory.episode.target

    def _step_request(self, trajectory: Trajectory, t: int) -> StepRequest:
        """The request to a corrector about step `t` once an episode is over."""
        step, row = trajectory.episode.steps[t], trajectory.rows[t]
        request = trajectory.episode.request(step.completion, trajectory.ended[t])
        return replace(request, state=step.state, image=row["images"][0], sample=row["sample"])

    def _steps_to_correct(self, trajectories: Sequence[Trajectory]) -> set[tuple[int, int]]:
        """The steps (trajectory, step) that a corrector is asked about: all, or `per_group` of each group, drawn at random."""
        every = [(i, t) for i, trajectory in enumerate(trajectories) for t in range(len(trajectory.rows))]
        per_group = self._guide.options.per_group
        if per_group is None:
            return set(every)
        rng = np.random.default_rng([self.args.seed, self.state.global_step, self.accelerator.process_index])
        group, chosen = self._n_own, set[tuple[int, int]]()
        for g in range(len(trajectories) // group):
            own = [place for place in every if place[0] // group == g]
            chosen |= {own[int(k)] for k in rng.permutation(len(own))[:per_group]}
        return chosen

    def _store_corrections(self, trajectories: Sequence[Trajectory]) -> None:
        step = self.state.global_step
        for i, trajectory in enumerate(trajectories):
            for t, verdict in enumerate(trajectory.verdicts):
                if verdict is not None:
                    name = f"{trajectory.sample.id}@{step}/{i}/{t}"
                    self._store(
                        name,
                        trajectory.rows[t],
                        verdict,
                        deal_seed=trajectory.episode.seed,
                        episode=trajectory.episode.number,
                        t=t,
                    )

    def _correct_samples(self, scored: ScoredRows) -> dict[int, Correction]:
        return {} if self._has_episodes else super()._correct_samples(scored)

    def _note(self, sample: Sample, text: str, ids: Sequence[int], mask: Sequence[bool], verdict: Correction | None) -> None:
        if not self._has_episodes:
            super()._note(sample, text, ids, mask, verdict)

    # -- advantages ----------------------------------------------------------------------------------------------------

    def _credit(self, trajectories: Sequence[Trajectory]) -> None:
        """Advantages of every step, group by group."""
        options, group = self._guide.options, self._n_own
        n_steps = sum(len(trajectory.rows) for trajectory in trajectories)
        for start in range(0, len(trajectories), group):
            own = trajectories[start : start + group]
            credit = options.credit_for(own[0].episode.env.game.success_reward)
            episodes = [trajectory.episode.steps for trajectory in own]
            advantages = credit.advantages(
                [[step.reward for step in steps] for steps in episodes],
                [[step.valid for step in steps] for steps in episodes],
                [[trajectory.moves[:t] for t in range(len(trajectory.rows))] for trajectory in own],
                [self._extras(trajectory) for trajectory in own] if options.judge_reward or options.length_reward else None,
            )
            for trajectory, values in zip(own, advantages, strict=True):
                per_step = n_steps / (len(trajectories) * len(values)) if options.step_weight == "per_episode" else 1.0
                trajectory.advantages = [value * per_step for value in values]

    def _extras(self, trajectory: Trajectory) -> list[float]:
        """Rewards of the baselines beside the game's, step by step."""
        options, longest = self._guide.options, self.args.max_completion_length
        extras = []
        for step, written, verdict in zip(trajectory.episode.steps, trajectory.generated, trajectory.verdicts, strict=True):
            right = verdict is not None and verdict.status == "ok"
            n_thought = sum(self._thought_mask(trajectory.sample, written.ids)) if step.valid and options.length_reward else 0
            extras.append(options.judge_reward * right + options.length_reward * min(1.0, n_thought / longest))
        return extras

    def _scores(self, trajectory: Trajectory, t: int) -> list[float]:
        """The rewards of a step for the completions log, in the order of the run's rewards."""
        step = trajectory.episode.steps[t]
        known = {"card_success": float(trajectory.episode.total > 0), "card_recognition": float(bool(step.recognised))}
        return [known.get(reward.name, math.nan) for reward in self._rewards]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        if self._step_scores is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        own = self._step_scores.tolist()
        texts = [completion[0]["content"] for completion in completions]
        self._scored = ScoredRows(list(inputs), texts, list(completion_ids_list), [row[0] for row in own])
        gathered: torch.Tensor = self.accelerator.gather(self._step_scores)
        return gathered

    def _log_episodes(self, trajectories: Sequence[Trajectory], n_rows: int) -> None:
        """Log metrics of episodes in place of those of rows, advantages as they were used, and notes of all thoughts."""
        group = self._n_own
        groups = [trajectories[i - i % group : i - i % group + group] for i in range(len(trajectories))]
        rows = [
            {
                "return": trajectory.episode.total / trajectory.episode.env.game.success_reward,
                "success": float(trajectory.episode.total > 0),
                "steps": float(len(trajectory.rows)),
                "flat": float(all(value == 0 for peer in peers for value in peer.advantages)),
            }
            for trajectory, peers in zip(trajectories, groups, strict=True)
        ]
        everyone = gather_object(rows)
        mean = {name: float(np.mean([row[name] for row in everyone])) for name in rows[0]}
        metrics = self._metrics["train"]
        metrics["reward"][-1], metrics["frac_reward_zero_std"][-1] = mean["return"], mean["flat"]
        metrics["reward_std"][-1] = float(np.std([row["return"] for row in everyone], ddof=1))
        if metrics["rewards/card_success/mean"]:
            metrics["rewards/card_success/mean"][-1] = mean["success"]
        for name in ("success", "steps"):
            metrics[f"episodes/{name}"].append(mean[name])
        used = [value for trajectory in trajectories for value in trajectory.advantages]
        used += used[:1] * (n_rows - len(used))
        self._logs["advantages"] = deque(gather_object(used))
        for trajectory in trajectories:
            self._note_steps(trajectory)

    def _note_steps(self, trajectory: Trajectory) -> None:
        for step, written, verdict in zip(trajectory.episode.steps, trajectory.generated, trajectory.verdicts, strict=True):
            fields = thought_fields(step.completion, trajectory.episode.env.game) if step.valid else None
            thought = None if fields is None else str(fields["thoughts"])
            mask = self._thought_mask(trajectory.rows[step.t]["sample"], written.ids)
            status = "" if verdict is None else verdict.status
            legal = step.action is not None
            self._window.add(StepNote(thought, sum(mask), len(written.ids), status, legal, bool(step.recognised)))

    def _weighed(self, advantages_B: torch.Tensor, scored: ScoredRows, masks: Sequence[Sequence[bool]]) -> torch.Tensor:
        if self._step_advantages is not None:
            advantages_B = torch.tensor(self._step_advantages, device=advantages_B.device, dtype=torch.float32)
        return super()._weighed(advantages_B, scored, masks)
