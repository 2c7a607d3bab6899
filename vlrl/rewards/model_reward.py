"""`rm:FOLDER[,option=...]`: a reward model trained by `--task prm` or `--task rm` that scores completions, image included.

Several models stand as `rm:FOLDER+FOLDER+...`. This file reads the options and makes scores of the models' values; the models
themselves are loaded by a program (`vlrl.models.value_models`) and handed over, once, for a whole run.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from vlrl.answers.span import ANSWER, END_ANSWER, END_THINK, THINK
from vlrl.answers.steps import split_steps, step_ends
from vlrl.data.value_head_files import PREFERENCES, STEPS, HeadFacts, read_head
from vlrl.rewards.refinement import combined, progress, refined, returns, standardised
from vlrl.rewards.step_aggregation import aggregate
from vlrl.schema import Reward, Sample, Score

RM = "rm"
ShownSolution = tuple[tuple[str, ...], str, tuple[str, ...]]
"""Images, question and steps of what a model values."""
Models = Callable[[str, Sequence[ShownSolution]], list[list[float]]]
"""By a folder, the value of every step of each solution."""


def rm(
    texts: Sequence[str],
    samples: Sequence[Sample],
    *,
    folder: str = "",
    outcome: Literal["last", "min", "mean", "product"] | None = None,
    credit: Literal["completion", "steps"] | None = None,
    refine: Literal["none", "clip", "delta", "clip+delta"] = "none",
    eta: float = 0.5,
    progress_weight: float = 0.0,
    combine: Literal["mean", "min", "wco", "uwo"] = "mean",
    coefficient: float = 0.5,
    normalise: Literal["none", "trained", "group"] = "none",
    device: str = "",
    batch_size: int = 32,
    models: Models | None = None,
) -> list[Score]:
    """What the reward models of `folder` (several: joined by `+`) give each completion of a batch, groups adjacent.

    A completion's steps (`vlrl.answers.steps`, tags taken out) have values in 0..1 by a model of `--task prm`; a model of
    `--task rm` gives the whole completion one logit, of any size. A completion without a letter or digit has the value 0 in
    place of steps. `models`: the loaded models. Raises ValueError without them.

    - `credit=completion`: the value is made of the steps by `outcome`, default `min`, as in Math-Shepherd (arXiv 2312.08935).
    - `credit=steps`: each token earns what is paid from its step on, G_k = r_k + ... + r_K, and the value is G_1. `refine`
      (Gao et al., arXiv 2410.15115), which asks for it, changes r: `clip`: min(r, eta) - eta; `delta`: differences of
      neighbours, the last step left out; `clip+delta`: the one, then the other.
    - `progress_weight=alpha`: each token earns alpha (V_k - V_{k-1}) of its own step (PAV, arXiv 2410.08146: the model's values
      are those of its prover); the value is the mean over steps.
    - `combine`: of several models (Coste et al., arXiv 2310.02743): `mean`; `wco`: the least of the completion's values, `min`:
      of each step's values; `uwo`: mean - coefficient x variance.
    - `normalise`: `trained`: each model's values less their mean, by their standard deviation, on its held-out rows; `group`:
      the completions' values over their group.
    """
    if models is None:
        raise ValueError("its models are not loaded here; this command cannot score with rm")
    options = PaidBy(outcome, credit, refine, eta, progress_weight, combine, coefficient, normalise)
    heads = [read_head(Path(one)) for one in folders_of(folder)]
    solutions = [solution_of(text, sample, heads[0].kind) for text, sample in zip(texts, samples, strict=True)]
    full = [i for i, (_, _, steps) in enumerate(solutions) if steps]
    by_model = []
    for name, head in zip(folders_of(folder), heads, strict=True):
        found = dict(zip(full, models(name, [solutions[i] for i in full]), strict=True))
        values = [found.get(i, [0.0]) for i in range(len(texts))]
        by_model.append([_scaled(row, head) for row in values] if normalise == "trained" else values)
    scores = [_score(text, [values[i] for values in by_model], options) for i, text in enumerate(texts)]
    return _within_groups(scores, samples) if normalise == "group" else scores


@dataclasses.dataclass(frozen=True)
class PaidBy:
    """The options of `rm` that make a score of values."""

    outcome: str | None
    credit: str | None
    refine: str
    eta: float
    progress_weight: float
    combine: str
    coefficient: float
    normalise: str

    @property
    def by_steps(self) -> bool:
        return self.credit == "steps" or self.refine != "none" or self.progress_weight != 0


def folders_of(folder: str) -> list[str]:
    """The folders that an option names: one that exists, or several joined by `+`."""
    return [folder] if Path(folder).exists() else [part.strip() for part in folder.split("+")]


def solution_of(text: str, sample: Sample, kind: str) -> ShownSolution:
    """What a model is shown of a completion: its steps without tags (of a model of preferences, the whole as one step), none
    where it holds no letter and no digit."""
    question = "\n".join([sample.question, *(sample.choices or ())])
    shown = without_tags(text)
    if text_is_empty(text):
        return sample.images, question, ()
    steps = split_steps(shown).steps if kind == STEPS else (shown.strip(),)
    return sample.images, question, steps if shown == text else tuple(map(_trimmed, steps))


def text_is_empty(text: str) -> bool:
    """Whether a completion holds no letter and no digit beside its tags."""
    return not any(character.isalnum() for character in without_tags(text))


def without_tags(text: str) -> str:
    """The text with blanks in place of think and answer tags, of the same length; what follows an opening tag begins a line."""
    for tag in (THINK, ANSWER):
        text = text.replace(tag, " " * (len(tag) - 1) + "\n")
    for tag in (END_THINK, END_ANSWER):
        text = text.replace(tag, " " * len(tag))
    return text


def _trimmed(step: str) -> str:
    return "\n".join(line.strip() for line in step.splitlines() if line.strip())


def _scaled(values: Sequence[float], head: HeadFacts) -> list[float]:
    assert head.mean is not None, "checked when the reward was read"
    assert head.std is not None
    return [(value - head.mean) / head.std for value in values]


def _score(text: str, members: Sequence[Sequence[float]], options: PaidBy) -> Score:
    """The score of one completion from each model's values of its steps."""
    n = len(members[0])
    how = options.combine

    def of_steps(way: str) -> list[float]:
        return [combined([values[k] for values in members], way, options.coefficient) for k in range(n)]

    if not options.by_steps:
        outcome = options.outcome or "min"
        rows = [of_steps("min")] if how == "min" else members
        totals = [aggregate(row, outcome) or 0.0 for row in rows]
        value = totals[0] if how == "min" else combined(totals, how, options.coefficient)
        return Score(value, n, _why(n, members, f"{outcome} {value:.3f}"))
    values = of_steps(how)
    if options.progress_weight:
        paid = [options.progress_weight * step for step in progress(values)]
        value = fmean(paid)
    else:
        # A completion that says nothing has its one step paid, which delta would leave out.
        way = options.refine.removesuffix("+delta") if text_is_empty(text) else options.refine
        paid = returns(refined(values, way, options.eta))
        value = paid[0]
    ends = step_ends(without_tags(text))
    shown = " ".join(f"{one:.2f}" for one in values)
    return Score(value, n, f"steps {shown}; paid {value:.3f}", tuple(zip(ends, paid, strict=True)))


def _why(n: int, members: Sequence[Sequence[float]], total: str) -> str:
    shown = " | ".join(" ".join(f"{value:.2f}" for value in row) for row in members)
    return f"{n} step{'s' * (n != 1)}: {shown}; {total}"


def _within_groups(scores: Sequence[Score], samples: Sequence[Sample]) -> list[Score]:
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.id, []).append(i)
    found = list(scores)
    for rows in groups.values():
        for i, value in zip(rows, standardised([scores[i].value or 0.0 for i in rows]), strict=True):
            found[i] = dataclasses.replace(scores[i], value=value)
    return found


# ---- the option as written


def options_given(reward: Reward) -> Mapping[str, Any]:
    """The options of a reward that holds models, as a user set them."""
    found: dict[str, Any] = {}
    function = reward.function
    while isinstance(function, functools.partial):
        found = {**function.keywords, **found}
        function = function.func
    return found


def as_pairs(words: str, name: str = RM, model: str = "a reward model") -> str:
    """`FOLDER,name=value` as options: `folder=FOLDER,name=value`. Raises ValueError without a folder (of `model`)."""
    folder, _, rest = words.partition(",")
    if not folder.strip() or folder.startswith("folder="):
        raise ValueError(f"reward {name}: name the folder of {model}: {name}:FOLDER[,option=value]")
    return ",".join([f"folder={folder}", *([rest] if rest else [])])


def pays_steps(reward: Reward) -> bool:
    """Whether tokens of one completion are paid differently by this reward."""
    options = options_given(reward)
    fresh = {"outcome": None, "credit": None, "refine": "none", "eta": 0.5, "progress_weight": 0.0}
    rest = {"combine": "mean", "coefficient": 0.5, "normalise": "none"}
    return (
        reward.name == RM and PaidBy(**{name: options.get(name, value) for name, value in {**fresh, **rest}.items()}).by_steps
    )


def check(reward: Reward) -> None:
    """Raises ValueError, in one line, for folders that are no reward models and options that do not go together."""
    given = options_given(reward)
    names = folders_of(given["folder"])
    heads = []
    for name in names:
        try:
            heads.append(read_head(Path(name)))
        except ValueError as error:
            raise ValueError(f"reward rm: {error}") from error
    kinds = {head.kind for head in heads}
    by_steps, refine = pays_steps(reward), given.get("refine", "none")
    problem = None
    if len(kinds) > 1:
        problem = "some of its folders value steps (--task prm) and others whole answers (--task rm); name one kind"
    elif len(set(names)) < len(names):
        problem = f"a folder is named twice in {given['folder']}"
    elif kinds == {PREFERENCES} and (by_steps or given.get("outcome")):
        asked = next(name for name in ("refine", "progress_weight", "credit", "outcome") if given.get(name))
        problem = f"{asked}= needs values of steps, and {names[0]} (--task rm) values whole answers; leave it out"
    elif by_steps and given.get("credit") == "completion":
        problem = "credit=completion pays a completion as a whole, and refine= and progress_weight= pay its steps; drop one"
    elif by_steps and given.get("outcome"):
        problem = "outcome= makes one value of all steps, but here each step is paid by itself; drop outcome="
    elif refine != "none" and given.get("progress_weight"):
        problem = "refine= and progress_weight= both say what a step is paid; drop one"
    elif "eta" in given and "clip" not in refine:
        problem = "eta= is the threshold of refine=clip and clip+delta; add one of them or drop eta="
    elif "coefficient" in given and given.get("combine") != "uwo":
        problem = "coefficient= is the weight of the variance in combine=uwo; add it or drop coefficient="
    elif given.get("coefficient", 0.0) < 0:
        problem = f"coefficient={given['coefficient']:g} must be 0 or more"
    elif "combine" in given and len(names) == 1:
        problem = f"combine={given['combine']} needs several models: rm:FOLDER+FOLDER,combine={given['combine']}"
    elif given.get("normalise") == "group" and by_steps:
        problem = "normalise=group is for the value of a whole completion; steps are brought to scale within their group anyway"
    elif given.get("normalise") == "trained" and any(not head.std for head in heads):
        lacking = next(name for name, head in zip(names, heads, strict=True) if not head.std)
        problem = (
            f"normalise=trained: {lacking}/value_head.json states no mean and std of its values; only --task rm writes them"
        )
    elif given.get("batch_size", 1) < 1:
        problem = f"batch_size={given['batch_size']} must be 1 or more"
    if problem:
        raise ValueError(f"reward rm: {problem}")


def combination_words(reward: Reward) -> str:
    """What is combined to what, in one line for a run's banner."""
    given = options_given(reward)
    names = folders_of(given["folder"])
    kind = "values of steps" if read_head(Path(names[0])).kind == STEPS else "preferences"
    parts = [f"rm: {kind} by {', '.join(names)}"]
    if len(names) > 1:
        how = given.get("combine", "mean")
        parts.append(
            f"{len(names)} models combined by {how}" + (f", coefficient {given.get('coefficient', 0.5):g}" * (how == "uwo"))
        )
    refine = given.get("refine", "none")
    if given.get("progress_weight"):
        parts.append(f"each step paid {given['progress_weight']:g} x its progress")
    elif pays_steps(reward):
        eta = f" (eta {given.get('eta', 0.5):g})" if "clip" in refine else ""
        parts.append(
            "each token paid what its step and those after it earn"
            + ("" if refine == "none" else f", refined by {refine}{eta}")
        )
    elif kind != "preferences":
        parts.append(f"a completion has the {given.get('outcome') or 'min'} of its steps")
    if given.get("normalise", "none") != "none":
        parts.append(f"normalised: {given['normalise']}")
    return "; ".join(parts)


def problem_of(sample: Sample) -> str | None:
    """Why a reward model cannot score this sample, or None."""
    return "a reward model sees images, and this sample has a video" if sample.video is not None else None
