"""Which rewards score which rows: each row its own task's, or those a run names, as far as they apply to it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlrl.answers.kind import answer_kinds
from vlrl.data.images import ImageError, image_size
from vlrl.rewards import REWARDS, load_reward, reward_name
from vlrl.rewards.scoring import described, score_rows
from vlrl.schema import ModelView, Prediction, Reward, RewardLike, Sample, Task, TaskError
from vlrl.tasks import is_built_in
from vlrl.tasks.evaluate import boxes_of, extra_of, measure, numbers

FORMS = (
    *("json_format", "think_answer_format", "adaptive_think_format", "rec_format", "vision_r1_format", "alphadrive_format"),
    *("arft_format", "plan_diversity"),
)
"""Rewards on form alone come last, so that `--reward_weights` reads: what is right, then how it is written."""
STAND_IN = "<think>t</think><answer>a</answer>"
"""Stands for a completion where no reference answer is known."""
WITHOUT_ANSWERS = ("", "no tags and no answer")
"""Completions that every run has some of, and that a user's reward or metric is tried on too."""


@dataclass(frozen=True)
class Rubric:
    """The rewards of a run, in the order of `--reward_weights`.

    `base`: the reward whose value the rewards that build on another take. `own`: names of rewards that some rows have for
    their own; these score such rows only (a letter is no yes or no).
    """

    rewards: tuple[Reward, ...]
    base: Reward | None
    own: frozenset[str]
    tasks: Mapping[str, Task]

    def applies(self, reward: Reward, sample: Sample) -> bool:
        """Whether `reward` scores this sample."""
        if reward.answers and not reward.answers & answer_kinds(sample):
            return False
        return reward.name not in self.own or reward.name in own_rewards(sample, self.tasks)


def own_rewards(sample: Sample, tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """The names of a row's rewards (without options): those it names itself (`meta.rewards`), else its task's."""
    return tuple(map(reward_name, own_specs(sample, tasks)))


def own_specs(sample: Sample, tasks: Mapping[str, Task]) -> Sequence[RewardLike]:
    """As `own_rewards`, in the form that `vlrl.rewards.load_reward` takes."""
    named: Sequence[RewardLike] | None = sample.facts.get("rewards")
    task = tasks[sample.task]
    try:
        return named or task.rewards_for(sample)
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"task {task.name}: its rewards failed on sample {sample.id!r}: {described(error)}") from error


def choose(named: Sequence[str] | None, samples: Iterable[Sample], tasks: Mapping[str, Task]) -> Rubric:
    """The rubric of a run on `samples`: the rewards `named`, or else every reward that some sample has for its own.

    A named reward that is some samples' own scores those only; any other scores every sample it applies to. Raises ValueError
    for an unknown reward, two of one name, and a run in which no reward applies to some sample.
    """
    samples = list(samples)
    specs: dict[str, RewardLike] = {}
    for sample in samples:
        for spec in own_specs(sample, tasks):
            first = specs.setdefault(reward_name(spec), spec)
            if first is not spec and not (isinstance(first, str) and isinstance(spec, str)):
                raise ValueError(f"two different rewards are named {reward_name(spec)!r} ({first!r:.60}); rename one")
    order = {name: i for i, name in enumerate([*(name for name in REWARDS if name not in FORMS), *FORMS])}
    chosen = list(named) if named is not None else [specs[name] for name in sorted(specs, key=lambda n: order.get(n, -1))]
    rewards = tuple(load_reward(spec) for spec in chosen)
    base = next((reward for reward in rewards if "base" not in reward.needs and reward.name not in FORMS), None)
    rubric = Rubric(rewards, base, frozenset(specs), tasks)
    lacking = [reward.name for reward in rewards if "base" in reward.needs and base is None]
    if lacking:
        raise ValueError(f"reward {lacking[0]} builds on another one; name that one too, before it")
    for reward in rewards:
        if reward.name == "llm_judge" and not _options(reward).get("judge_model"):
            raise ValueError("llm_judge asks a model: name it, llm_judge:judge_model=NAME")
    for sample in samples:
        applying = [reward for reward in rewards if rubric.applies(reward, sample)]
        for reward in applying:
            problem = reward.problem(sample) if reward.problem is not None else None
            if problem:
                raise ValueError(f"reward {reward.name} cannot score sample {sample.id!r}: {problem}")
        if not applying:
            names = ", ".join(r.name for r in rewards)
            raise ValueError(f"no reward of this run ({names}) applies to sample {sample.id!r} of task {sample.task}")
    return rubric


def try_once(rubric: Rubric, samples: Iterable[Sample]) -> None:
    """Ask each task of these samples once for a prompt, a reference answer and a measured result, and each reward for a score,
    so that what a user's code does wrong is known before a model is loaded; of a user's task, all prompts and answers.
    Rewards and metrics that ask a network or a model are left out. Raises TaskError in one line, naming the task or the reward
    and the sample."""
    tried: set[str] = set()
    for sample in samples:
        task = rubric.tasks[sample.task]
        waiting = [reward for reward in rubric.rewards if reward.name not in tried and rubric.applies(reward, sample)]
        if task.name in tried and not waiting and is_built_in(task):
            continue
        sample = _in_pixels(sample)
        text = _tried_text(task, sample)
        if task.name not in tried and not task.parallel(sample):
            prediction = Prediction(sample.id, text, 1, False)
            rows = measure(task, [sample], [prediction])
            for other in () if is_built_in(task) else WITHOUT_ANSWERS:
                measure(task, [sample], [Prediction(sample.id, other, 1, True)])
            numbers(task, rows)
            extra_of(task, rows)
            boxes_of(task, sample, prediction)
        tried |= {task.name, *(reward.name for reward in waiting)}
        for reward in waiting:
            if reward.needs & {"network", "model"}:
                continue
            base = [0.0] if "base" in reward.needs else None
            # A user's function that reads tags fails on a completion without any, which every run has.
            for tried_text in [text] if reward.name in REWARDS else [text, *WITHOUT_ANSWERS]:
                score_rows(reward, [tried_text], [sample], 0, [1], base)


def answer_problem_of(task: Task, sample: Sample) -> str | None:
    """What `task.check` finds wrong with a sample, or None. Raises TaskError where it fails or returns no text."""
    try:
        problem = task.check(sample)
    except Exception as error:
        raise TaskError(f"task {task.name}: its check failed on sample {sample.id!r}: {described(error)}") from error
    if problem is not None and not isinstance(problem, str):
        returned = f"its check must return what is wrong as text, or None, got {problem!r:.80}"
        raise TaskError(f"task {task.name}: {returned} for sample {sample.id!r}")
    return problem


def _in_pixels(sample: Sample) -> Sample:
    """The sample with boxes in pixels of its image and, where the image can be read, its size, which a file need not state."""
    meta = {**sample.meta}
    if sample.images and "image_size" not in meta:
        with contextlib.suppress(ImageError, IndexError):
            meta["image_size"] = list(image_size(sample.images[int(meta.get("image_index", 0))]))
    return dataclasses.replace(sample, meta=meta, view=ModelView("px"))


def _tried_text(task: Task, sample: Sample) -> str:
    """The reference answer of a sample, or what stands in for it, after its prompt was made too."""
    found = STAND_IN
    for name, function in (("prompt", task.prompt), ("oracle", task.oracle)):
        if function is None:
            continue
        try:
            text = function(sample)
        except Exception as error:
            raise TaskError(f"task {task.name}: its {name} failed on sample {sample.id!r}: {described(error)}") from error
        if not isinstance(text, str) or not text.strip():
            raise TaskError(f"task {task.name}: its {name} must return text, got {text!r:.80} for sample {sample.id!r}")
        found = text if name == "oracle" else found
    return found


def _options(reward: Reward) -> Mapping[str, object]:
    """The options set by the user."""
    return reward.function.keywords if isinstance(reward.function, functools.partial) else {}


def with_planned_steps(reward: Reward, steps: int) -> Reward:
    """The reward with a `stage_step` that was given as a share of the run (below 1) turned into a step."""
    stage = _options(reward).get("stage_step")
    if not isinstance(stage, float) or stage >= 1 or not isinstance(reward.function, functools.partial):
        return reward
    keywords = {**reward.function.keywords, "stage_step": float(max(1, round(stage * steps)))}
    return dataclasses.replace(reward, function=functools.partial(reward.function.func, **keywords))
