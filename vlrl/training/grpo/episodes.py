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
from vlrl.training.grpo.dynamic_sampling import Row
from vlrl.training.grpo.imitation import ScoredRows
from vlrl.training.grpo.micro_batches import StepBatches
from vlrl.training.grpo.shared_logprobs import SharedGroups


@dataclass(frozen=True)
class Curriculum:
    """The first `share` of a run's steps is played on deals of another task."""

    task: Task
    share: float


@dataclass
class Seat:
    """One episode of a batch: what is asked about it, what was answered, what a corrector said and what each step is worth."""

    sample: Sample
    episode: Episode
    led: bool = False
    """Whether the corrector's moves are played."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    written: list[Row] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    verdicts: list[Correction | None] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)

    @property
    def moves(self) -> tuple[str, ...]:
        return tuple(step.token for step in self.episode.steps if step.token is not None)

    def request(self) -> StepRequest:
        """What a corrector is asked about the last reply, before it is played."""
        return replace(self.episode.request(self.texts[-1], self.ended[-1]), sample=self.rows[-1]["sample"])

    def play(self) -> None:
        """Plays the last reply, or where the corrector leads what it has played instead."""
        text, verdict, game = self.texts[-1], self.verdicts[-1], self.episode.env.game
        instead = correctors_move(text, verdict, game) if self.led and verdict is not None else None
        self.episode.play(text, self.ended[-1], verdict, instead)


class Episodes(StepBatches):
    """`GuidedThoughts` that plays the episodes among its samples."""

    _curriculum: Curriculum | None = None
    _n_led = 0
    """Of each group's episodes, how many the corrector leads."""
    _step_scores: torch.Tensor | None = None
    _worth: list[float] | None = None
    """Of the rows in hand, where they are steps: what the first reward functions say, and their advantages."""

    def _start_playing(self, curriculum: Curriculum | None) -> None:
        self._plays, self._curriculum = True, curriculum
        rows = self.args.per_device_train_batch_size * self.args.steps_per_generation
        if rows % self.num_generations:
            raise ValueError(
                f"{rows} episodes a process are not whole groups of num_generations={self.num_generations}; make"
                " per_device_train_batch_size x steps_per_generation a multiple of it"
            )
        cut, self._n_led = self._guide.options.cut, self._guide.options.n_led(self.num_generations)
        how = {"none": "never cut", "reward": "cut below a reward of 0"}.get(cut, "cut where they leave a corrector's formula")
        led = f"; {self._n_led} led by the corrector, for corrections alone" if self._n_led else ""
        self._say(f"episodes  {rows} side by side on each process, {self.num_generations} from each deal{led}, {how}")

    # -- playing -------------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Of episodes: play them all, then have TRL score their steps as a batch of single completions."""
        if not self._plays or not self.model.training:
            return super()._generate_and_score_completions(inputs)
        seats = [self._seat(row, i % self.num_generations) for i, row in enumerate(inputs)]
        self._play(seats)
        moves = gather_object([sum(len(seat.rows) for seat in seats)])
        self._metrics["train"]["episodes/moves"].append(float(sum(moves)))
        if self._set is not None:
            self._keep(seats)
        seats = [seat for seat in seats if not seat.led]
        self._credit(seats)
        steps = [(seat, t) for seat in seats for t in range(len(seat.rows))]
        n_most = max(gather_object([len(steps)]))
        padded = [*steps, *[steps[0]] * (n_most - len(steps))]  # processes must bring equally many rows
        self._handed = [(seat.rows[t], seat.written[t]) for seat, t in padded]
        self._step_scores = torch.tensor([self._scores(seat, t) for seat, t in padded], device=self.accelerator.device)
        # TRL keeps as many rows of its log as a generation has completions; these are all steps.
        self._logs |= {name: deque() for name in ("images", "prompt", "completion", "advantages")}
        self._logs |= {name: defaultdict(deque) for name in ("rewards", "extra")}
        self._worth = [seat.advantages[t] for seat, t in padded]
        group, self.num_generations = self.num_generations, 1
        try:
            batch = super()._generate_and_score_completions([row for row, _ in self._handed])
        finally:
            self.num_generations, self._step_scores, self._worth = group, None, None
        self._log_episodes(seats, n_most)
        # Rows that only fill up count for nothing, and the others for as much more.
        batch["completion_mask"][len(steps) :] = 0
        n_tokens, n_steps = batch["completion_mask"].sum(), torch.tensor(len(steps), device=self.accelerator.device)
        batch["num_items_in_batch"] = self.accelerator.gather(n_tokens).sum()
        self._filled = n_most * self.accelerator.num_processes / float(self.accelerator.gather(n_steps).sum())
        return batch

    def _seat(self, row: dict[str, Any], number: int) -> Seat:
        sample: Sample = row["sample"]
        now = self._curriculum
        if now is not None and self.state.global_step < now.share * self.state.max_steps:
            sample = now.task.draw(self.args.seed, "train", int(row["index"]))
        deal, options = deal_of(sample), self._guide.options
        env = CardEnv(deal.game.name, **sample.meta.get("game", {}))
        episode = Episode(env, deal.seed, number, illegal=options.illegal, truncation=options.cut)
        return Seat(sample, episode, led=number < self._n_led)

    @property
    def _n_own(self) -> int:
        """Of each group's episodes, how many the policy plays itself."""
        return self.num_generations - self._n_led

    def _play(self, seats: Sequence[Seat]) -> None:
        """Play all episodes to their ends, one reply of each at a time. Corrections wait until all are over, unless they decide
        what is played or when an episode is cut, so that asking for them never holds up the playing."""
        cuts = self._guide.options.cut == "target"
        while True:
            live = [seat for seat in seats if not seat.episode.done]
            n_most = max(gather_object([len(live)]))
            if not n_most:
                break
            for seat in live:
                seat.rows.append(self._step_row(seat))
            rows = [seat.rows[-1] for seat in live] or [seats[0].rows[0]]
            replies = self._write([*rows, *[rows[0]] * (n_most - len(rows))])[: len(live)]
            texts = self.processing_class.batch_decode([one.ids for one in replies], skip_special_tokens=True)
            for seat, reply, text in zip(live, replies, texts, strict=True):
                seat.written.append(reply)
                seat.texts.append(text)
                seat.ended.append(self._has_ended(reply.ids))
                seat.verdicts.append(None)
            asked = [seat for seat in live if cuts or seat.led]
            for seat, verdict in zip(asked, self._corrections([seat.request() for seat in asked]), strict=True):
                seat.verdicts[-1] = verdict
            for seat in live:
                seat.play()
        if self._set is not None and not cuts:
            self._judge([seat for seat in seats if not seat.led])

    def _step_row(self, seat: Seat) -> dict[str, Any]:
        sample = state_sample(seat.sample, seat.moves, good=False)
        return {
            "prompt": messages(sample, {**self._tasks, **self._easier}),
            "images": [seat.episode.observation],
            "sample": sample,
            "index": -1,
        }

    def _task(self, name: str) -> Task:
        return self._easier.get(name) or super()._task(name)

    @property
    def _easier(self) -> dict[str, Task]:
        return {} if self._curriculum is None else {self._curriculum.task.name: self._curriculum.task}

    def _write(self, rows: Sequence[dict[str, Any]]) -> list[Row]:
        """One sampled reply for each row, by TRL's own generation."""
        prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
        prompt_ids, images, fields = super(SharedGroups, self)._tokenize_prompts(prompts)
        ids, logprobs = super(SharedGroups, self)._generate_single_turn(prompt_ids, images, fields, 1)
        return [Row(*row) for row in zip(prompt_ids, ids, logprobs or [None] * len(ids), strict=True)]

    # -- corrections ---------------------------------------------------------------------------------------------------

    def _judge(self, seats: Sequence[Seat]) -> None:
        """Ask about the steps of all episodes, first steps first, since a formula that an episode heads for is carried on."""
        asked = self._asked_steps(seats)
        for t in range(max(len(seat.rows) for seat in seats)):
            places = [(i, seat) for i, seat in enumerate(seats) if t < len(seat.rows) and (i, t) in asked]
            requests = [self._step_request(seat, t) for _, seat in places]
            for (_, seat), verdict in zip(places, self._corrections(requests), strict=True):
                seat.verdicts[t] = verdict
                seat.episode.target = verdict.target or seat.episode.target

    def _step_request(self, seat: Seat, t: int) -> StepRequest:
        """What is asked about step `t` once an episode is over."""
        step, row = seat.episode.steps[t], seat.rows[t]
        asked = seat.episode.request(step.completion, seat.ended[t])
        return replace(asked, state=step.state, image=row["images"][0], sample=row["sample"])

    def _asked_steps(self, seats: Sequence[Seat]) -> set[tuple[int, int]]:
        """Which steps a corrector is asked about: all, or so many of each group, drawn at random."""
        every = [(i, t) for i, seat in enumerate(seats) for t in range(len(seat.rows))]
        per_group = self._guide.options.per_group
        if per_group is None:
            return set(every)
        rng = np.random.default_rng([self.args.seed, self.state.global_step, self.accelerator.process_index])
        group, chosen = self._n_own, set[tuple[int, int]]()
        for g in range(len(seats) // group):
            own = [place for place in every if place[0] // group == g]
            chosen |= {own[int(k)] for k in rng.permutation(len(own))[:per_group]}
        return chosen

    def _keep(self, seats: Sequence[Seat]) -> None:
        step = self.state.global_step
        for i, seat in enumerate(seats):
            for t, verdict in enumerate(seat.verdicts):
                if verdict is not None:
                    name = f"{seat.sample.id}@{step}/{i}/{t}"
                    self._store(name, seat.rows[t], verdict, deal_seed=seat.episode.seed, episode=seat.episode.number, t=t)

    def _correct_samples(self, scored: ScoredRows) -> dict[int, Correction]:
        return {} if self._plays else super()._correct_samples(scored)

    def _note(self, sample: Sample, text: str, ids: Sequence[int], mask: Sequence[bool], verdict: Correction | None) -> None:
        if not self._plays:
            super()._note(sample, text, ids, mask, verdict)

    # -- worth ---------------------------------------------------------------------------------------------------------

    def _credit(self, seats: Sequence[Seat]) -> None:
        """Advantages of every step, group by group."""
        options, group = self._guide.options, self._n_own
        n_steps = sum(len(seat.rows) for seat in seats)
        for start in range(0, len(seats), group):
            own = seats[start : start + group]
            credit = options.credit_for(own[0].episode.env.game.success_reward)
            episodes = [seat.episode.steps for seat in own]
            advantages = credit.advantages(
                [[step.reward for step in steps] for steps in episodes],
                [[step.valid for step in steps] for steps in episodes],
                [[seat.moves[:t] for t in range(len(seat.rows))] for seat in own],
                [self._extras(seat) for seat in own] if options.judge_reward or options.length_reward else None,
            )
            for seat, values in zip(own, advantages, strict=True):
                per_step = n_steps / (len(seats) * len(values)) if options.step_weight == "per_episode" else 1.0
                seat.advantages = [value * per_step for value in values]

    def _extras(self, seat: Seat) -> list[float]:
        """What the baselines pay beside the game, step by step."""
        options, longest = self._guide.options, self.args.max_completion_length
        paid = []
        for step, written, verdict in zip(seat.episode.steps, seat.written, seat.verdicts, strict=True):
            right = verdict is not None and verdict.status == "ok"
            n_thought = sum(self._thought_mask(seat.sample, written.ids)) if step.valid and options.length_reward else 0
            paid.append(options.judge_reward * right + options.length_reward * min(1.0, n_thought / longest))
        return paid

    def _scores(self, seat: Seat, t: int) -> list[float]:
        """What the completions log says of a step, in the order of the run's rewards."""
        step = seat.episode.steps[t]
        known = {"card_success": float(seat.episode.total > 0), "card_recognition": float(bool(step.recognised))}
        return [known.get(reward.name, math.nan) for reward in self._rewards]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        if self._step_scores is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        own = self._step_scores.tolist()
        texts = [completion[0]["content"] for completion in completions]
        self._scored = ScoredRows(list(inputs), texts, list(completion_ids_list), [row[0] for row in own])
        gathered: torch.Tensor = self.accelerator.gather(self._step_scores)
        return gathered

    def _log_episodes(self, seats: Sequence[Seat], n_rows: int) -> None:
        """Metrics of episodes in place of those of rows, advantages as they were used, and notes of all thoughts."""
        group = self._n_own
        rows = [
            {
                "return": seat.episode.total / seat.episode.env.game.success_reward,
                "success": float(seat.episode.total > 0),
                "steps": float(len(seat.rows)),
                "flat": float(all(a == 0 for peer in seats[i - i % group : i - i % group + group] for a in peer.advantages)),
            }
            for i, seat in enumerate(seats)
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
        used = [value for seat in seats for value in seat.advantages]
        used += used[:1] * (n_rows - len(used))
        self._logs["advantages"] = deque(gather_object(used))
        for seat in seats:
            self._note_steps(seat)

    def _note_steps(self, seat: Seat) -> None:
        for step, written, verdict in zip(seat.episode.steps, seat.written, seat.verdicts, strict=True):
            fields = thought_fields(step.completion, seat.episode.env.game) if step.valid else None
            thought = None if fields is None else str(fields["thoughts"])
            mask = self._thought_mask(seat.rows[step.t]["sample"], written.ids)
            status = "" if verdict is None else verdict.status
            legal = step.action is not None
            self._window.add(StepNote(thought, sum(mask), len(written.ids), status, legal, bool(step.recognised)))

    def _weighed(self, advantages_B: torch.Tensor, scored: ScoredRows, masks: Sequence[Sequence[bool]]) -> torch.Tensor:
        if self._worth is not None:
            advantages_B = torch.tensor(self._worth, device=advantages_B.device, dtype=torch.float32)
        return super()._weighed(advantages_B, scored, masks)
