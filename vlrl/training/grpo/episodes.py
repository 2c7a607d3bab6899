"""Multi-turn GRPO: a group is G episodes from one deal, every step of which is a row with its own prompt and image.

The first three stations for episodes. Those of a batch are played side by side; their steps are credited by the game's
rewards (`vlrl.gtr.credit`) and go on as a batch of single completions, whose prompts and images are those that the policy saw.
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

from vlrl.envs import CardEnv
from vlrl.envs.cards import thought_fields
from vlrl.envs.cards.deals import deal_of, state_sample
from vlrl.gtr.corrector import Correction, StepRequest
from vlrl.gtr.diagnostics import StepNote
from vlrl.gtr.episodes import Episode
from vlrl.gtr.named_moves import correctors_move
from vlrl.models.inputs import messages
from vlrl.models.load import LoadedModel
from vlrl.schema import Reward, Sample, Task
from vlrl.training.grpo.batch import Batch, Completion, TrainerCalls, TrainingRow
from vlrl.training.grpo.corrections import Corrections
from vlrl.training.grpo.rollout import with_images


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
    rows: list[TrainingRow] = field(default_factory=list)
    generated: list[Completion] = field(default_factory=list)
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


@dataclass(frozen=True)
class PlayedBatch:
    """The steps of a generation's episodes. `n_steps`: how many rows of `batch` are steps, those behind fill up."""

    batch: Batch
    trajectories: Sequence[Trajectory]
    n_steps: int


class Episodes:
    """Plays the episodes of a generation (`play`), and logs them once TRL has made tensors of their steps (`finish`)."""

    def __init__(
        self,
        engine: TrainerCalls,
        corrections: Corrections,
        rewards: Sequence[Reward],
        loaded: LoadedModel,
        curriculum: Curriculum | None,
    ) -> None:
        self.engine, self.corrections, self.rewards, self.curriculum = engine, corrections, list(rewards), curriculum
        self.thoughts, self.options = corrections.thoughts, corrections.guide.options
        self.processor: Any = loaded.processor
        args, group = engine.args, engine.num_generations
        n_rows = args.per_device_train_batch_size * args.steps_per_generation
        if n_rows % group:
            raise ValueError(
                f"{n_rows} episodes a process are not whole groups of num_generations={group}; make"
                " per_device_train_batch_size x steps_per_generation a multiple of it"
            )
        cut, self.n_guided = self.options.cut, self.options.n_guided(group)
        how = {"none": "never cut", "reward": "cut below a reward of 0"}.get(cut, "cut where they leave a corrector's formula")
        guided = f"; {self.n_guided} of them guided by the corrector, for imitation alone" if self.n_guided else ""
        engine.say(f"episodes  {n_rows} side by side on each process, {group} from each deal{guided}, {how}")

    @property
    def n_own(self) -> int:
        """Of each group's episodes, how many the policy plays itself."""
        return self.engine.num_generations - self.n_guided

    # -- playing -------------------------------------------------------------------------------------------------------

    def play(self, batch: Batch) -> PlayedBatch:
        """Play the episodes of these rows to their ends. Their steps, with scores and credits; processes bring equally many."""
        group = self.engine.num_generations
        trajectories = [self.new_trajectory(row, i % group) for i, row in enumerate(batch.rows)]
        self.run(trajectories)
        moves = gather_object([sum(len(trajectory.rows) for trajectory in trajectories)])
        self.engine.note("episodes/moves", float(sum(moves)))
        if self.corrections.set is not None:
            self._store_corrections(trajectories)
        trajectories = [trajectory for trajectory in trajectories if not trajectory.guided]
        self._credit(trajectories)
        steps = [(trajectory, t) for trajectory in trajectories for t in range(len(trajectory.rows))]
        n_most = max(gather_object([len(steps)]))
        padded = [*steps, *[steps[0]] * (n_most - len(steps))]
        played = Batch(
            rows=tuple(trajectory.rows[t] for trajectory, t in padded),
            completions=tuple(trajectory.generated[t] for trajectory, t in padded),
            scores_BR=torch.tensor([self._scores(trajectory, t) for trajectory, t in padded]),
            credits_B=tuple(trajectory.advantages[t] for trajectory, t in padded),
        )
        # TRL keeps as many rows of its log as a generation has completions; these are all steps.
        self.engine.completions_log.update({name: deque() for name in ("images", "prompt", "completion", "advantages")})
        self.engine.completions_log.update({name: defaultdict(deque) for name in ("rewards", "extra")})
        return PlayedBatch(played, trajectories, len(steps))

    def finish(self, played: PlayedBatch, batch: Batch) -> Batch:
        """Log the episodes, and let rows that only fill up count for nothing, the others for as much more."""
        n_rows, n_steps, accelerator = len(batch.rows), played.n_steps, self.engine.accelerator
        self._log(played.trajectories, n_rows)
        made = batch.made
        made.completion_mask_BT[n_steps:] = 0
        n_tokens, counted = made.completion_mask_BT.sum(), torch.tensor(n_steps, device=accelerator.device)
        n_tokens = accelerator.gather(n_tokens).sum()
        filled = n_rows * accelerator.num_processes / float(accelerator.gather(counted).sum())
        return replace(batch, filled=filled, tensors=replace(made, n_tokens=n_tokens))

    def new_trajectory(self, row: TrainingRow, number: int) -> Trajectory:
        """Episode `number` of a group, begun; on an easier deal where the curriculum has it."""
        sample: Sample = row["sample"]
        now, state = self.curriculum, self.engine.state
        if now is not None and state.global_step < now.share * state.max_steps:
            sample = now.task.draw(self.engine.args.seed, "train", int(row["index"]))
        deal = deal_of(sample)
        env = CardEnv(deal.game.name, **sample.facts.get("game", {}))
        episode = Episode(env, deal.seed, number, illegal=self.options.illegal, truncation=self.options.cut)
        return Trajectory(sample, episode, guided=number < self.n_guided)

    def run(self, trajectories: Sequence[Trajectory]) -> None:
        """Play all episodes to their ends, one reply of each at a time. Corrections are made once all are over, so that they do
        not delay the playing, unless they decide what is played or when an episode is cut."""
        cuts = self.options.cut == "target"
        while True:
            live = [trajectory for trajectory in trajectories if not trajectory.episode.done]
            n_most = max(gather_object([len(live)]))
            if not n_most:
                break
            for trajectory in live:
                trajectory.rows.append(self._step_row(trajectory))
            rows = [trajectory.rows[-1] for trajectory in live] or [trajectories[0].rows[0]]
            replies = self.write([*rows, *[rows[0]] * (n_most - len(rows))])[: len(live)]
            texts = self.processor.batch_decode([one.ids for one in replies], skip_special_tokens=True)
            for trajectory, reply, text in zip(live, replies, texts, strict=True):
                trajectory.generated.append(reply)
                trajectory.texts.append(text)
                trajectory.ended.append(self.thoughts.has_ended(reply.ids))
                trajectory.verdicts.append(None)
            now = [trajectory for trajectory in live if cuts or trajectory.guided]
            verdicts = self.corrections.ask([trajectory.request() for trajectory in now])
            for trajectory, verdict in zip(now, verdicts, strict=True):
                trajectory.verdicts[-1] = verdict
            for trajectory in live:
                trajectory.step()
        if self.corrections.set is not None and not cuts:
            self._correct_steps([trajectory for trajectory in trajectories if not trajectory.guided])

    def _step_row(self, trajectory: Trajectory) -> TrainingRow:
        sample = state_sample(trajectory.sample, trajectory.moves, good=False)
        return {
            "prompt": messages(sample, self.thoughts.tasks),
            "images": [trajectory.episode.observation],
            "sample": sample,
            "index": -1,
        }

    def write(self, rows: Sequence[TrainingRow]) -> list[Completion]:
        """One sampled reply for each row."""
        prompt_ids, images, fields = self.engine.tokenize([with_images(row) for row in rows])
        ids, logprobs = self.engine.sample(prompt_ids, images, fields, 1)
        return [Completion(*row) for row in zip(prompt_ids, ids, logprobs or [None] * len(ids), strict=True)]

    # -- corrections ---------------------------------------------------------------------------------------------------

    def _correct_steps(self, trajectories: Sequence[Trajectory]) -> None:
        """Verdicts on the steps of all episodes, first steps first, since the formula that an episode heads for is kept."""
        chosen = self._steps_to_correct(trajectories)
        for t in range(max(len(trajectory.rows) for trajectory in trajectories)):
            places = [one for i, one in enumerate(trajectories) if t < len(one.rows) and (i, t) in chosen]
            requests = [self._step_request(one, t) for one in places]
            for trajectory, verdict in zip(places, self.corrections.ask(requests), strict=True):
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
        per_group = self.options.per_group
        if per_group is None:
            return set(every)
        engine = self.engine
        rng = np.random.default_rng([engine.args.seed, engine.state.global_step, engine.accelerator.process_index])
        group, chosen = self.n_own, set[tuple[int, int]]()
        for g in range(len(trajectories) // group):
            own = [place for place in every if place[0] // group == g]
            chosen |= {own[int(k)] for k in rng.permutation(len(own))[:per_group]}
        return chosen

    def _store_corrections(self, trajectories: Sequence[Trajectory]) -> None:
        step = self.engine.state.global_step
        for i, trajectory in enumerate(trajectories):
            for t, verdict in enumerate(trajectory.verdicts):
                if verdict is not None:
                    name = f"{trajectory.sample.id}@{step}/{i}/{t}"
                    self.corrections.store(
                        name,
                        trajectory.rows[t],
                        verdict,
                        deal_seed=trajectory.episode.seed,
                        episode=trajectory.episode.number,
                        t=t,
                    )

    # -- advantages ----------------------------------------------------------------------------------------------------

    def _credit(self, trajectories: Sequence[Trajectory]) -> None:
        """Advantages of every step, group by group."""
        options, group = self.options, self.n_own
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
        options, longest = self.options, self.engine.args.max_completion_length
        extras = []
        for step, written, verdict in zip(trajectory.episode.steps, trajectory.generated, trajectory.verdicts, strict=True):
            right = verdict is not None and verdict.status == "ok"
            n_thought = sum(self.thoughts.mask(trajectory.sample, written.ids)) if step.valid and options.length_reward else 0
            extras.append(options.judge_reward * right + options.length_reward * min(1.0, n_thought / longest))
        return extras

    def _scores(self, trajectory: Trajectory, t: int) -> list[float]:
        """The rewards of a step for the completions log, in the order of the run's rewards."""
        step = trajectory.episode.steps[t]
        known = {"card_success": float(trajectory.episode.total > 0), "card_recognition": float(bool(step.recognised))}
        return [known.get(reward.name, math.nan) for reward in self.rewards]

    def _log(self, trajectories: Sequence[Trajectory], n_rows: int) -> None:
        """Log metrics of episodes in place of those of rows, advantages as they were used, and notes of all thoughts."""
        group = self.n_own
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
        metrics = self.engine.metrics
        metrics["reward"][-1], metrics["frac_reward_zero_std"][-1] = mean["return"], mean["flat"]
        metrics["reward_std"][-1] = float(np.std([row["return"] for row in everyone], ddof=1))
        if metrics["rewards/card_success/mean"]:
            metrics["rewards/card_success/mean"][-1] = mean["success"]
        for name in ("success", "steps"):
            metrics[f"episodes/{name}"].append(mean[name])
        used = [value for trajectory in trajectories for value in trajectory.advantages]
        used += used[:1] * (n_rows - len(used))
        self.engine.completions_log["advantages"] = deque(gather_object(used))
        for trajectory in trajectories:
            self._note_steps(trajectory)

    def _note_steps(self, trajectory: Trajectory) -> None:
        for step, written, verdict in zip(trajectory.episode.steps, trajectory.generated, trajectory.verdicts, strict=True):
            fields = thought_fields(step.completion, trajectory.episode.env.game) if step.valid else None
            thought = None if fields is None else str(fields["thoughts"])
            mask = self.thoughts.mask(trajectory.rows[step.t]["sample"], written.ids)
            status = "" if verdict is None else verdict.status
            legal = step.action is not None
            self.thoughts.window.add(StepNote(thought, sum(mask), len(written.ids), status, legal, bool(step.recognised)))
