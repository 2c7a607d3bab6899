"""How thoughts are guided: which corrector, what is imitated and how much, and how episodes are played and credited."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vlrl.data.name_values import split_pairs
from vlrl.gtr.credit import Credit
from vlrl.gtr.remote import RemoteOptions
from vlrl.schema import Task
from vlrl.tasks import load_task

CORRECTORS = ("none", "oracle", "model:NAME", "checkpoint:FOLDER")


@dataclass(frozen=True)
class GuideOptions:
    """Defaults are the published choices where there is one.

    `endpoint`: settings of the requests to a corrector `model:NAME` (None: those of `RemoteOptions`). `coef`: weight of the
    imitation term; `schedule` "linear_to_zero" takes it away over the run. `thought_weight`: of thought tokens in the policy
    term, 0..1 (None: 0.5 in card games, 1 elsewhere). `per_group`: corrections per group (None: every step of an episode, one
    completion of a single question; 0: none). `clone`: imitate the thought, or the "full" reply with the action that the
    corrected thought names. `draws`: records drawn for each row of the policy term (published: 1; the memory of a step grows
    with it). `aggregate`, `gate`, `cap`: see `CorrectionSet`. `policy=False`: imitation alone.
    `solver`: whether a corrector may use one. `invalid`: leave a reply that is not valid alone, as published, or have it
    rewritten as one that is, so that a policy learns the form from corrections too. `credit`, `gamma`, `format_weight`: see
    `Credit`. `truncation`, `illegal`: see `Episode` (and `cut`). `step_weight`: every step counts the same, or every
    episode. `led`: the share of each group's episodes that are guided: the corrector's moves are played instead of the
    policy's, so that states that the policy does not reach yet are corrected too; they are no part of the policy term, nor of
    the group it is normalised in (the mixture of DAgger, arXiv 1011.0686, an episode at a time; not in GTR). Baselines of card
    games, instead of imitation: `judge_reward` is added at each step whose thought the corrector finds right,
    `length_reward` for a valid thought as long as a completion may be, shorter ones in proportion.
    """

    corrector: str = "none"
    endpoint: RemoteOptions | None = None
    coef: float = 1.0
    thought_weight: float | None = None
    per_group: int | None = None
    schedule: Literal["constant", "linear_to_zero"] = "constant"
    clone: Literal["thought", "full"] = "thought"
    aggregate: Literal["all", "fresh"] = "all"
    gate: Literal["share", "always"] = "share"
    cap: int | None = None
    draws: int = 1
    policy: bool = True
    solver: bool = True
    invalid: Literal["skip", "correct"] = "skip"
    credit: Literal["episode", "return_to_go", "same_state"] = "episode"
    gamma: float = 0.9
    format_weight: float = 0.5
    truncation: Literal["none", "reward", "target"] = "reward"
    illegal: Literal["random", "end"] = "random"
    step_weight: Literal["equal", "per_episode"] = "equal"
    led: float = 0.0
    probes: int = 64
    judge_reward: float = 0.0
    length_reward: float = 0.0

    def __post_init__(self) -> None:
        kind, _, name = self.corrector.partition(":")
        if self.corrector not in ("none", "oracle") and (kind not in ("model", "checkpoint") or not name):
            raise ValueError(f"corrector {self.corrector!r}: give {', '.join(CORRECTORS)}")
        if self.endpoint is not None and (kind, self.endpoint.model) != ("model", name):
            raise ValueError(f"corrector {self.corrector!r} has no endpoint of the model {self.endpoint.model!r}")
        if self.thought_weight is not None and not 0 <= self.thought_weight <= 1:
            raise ValueError(f"thought_weight {self.thought_weight} is outside 0..1")
        if self.coef < 0 or (self.cap is not None and self.cap < 1) or (self.per_group is not None and self.per_group < 0):
            raise ValueError(
                f"coef {self.coef}, cap {self.cap}, per_group {self.per_group}: none may be negative, cap at least 1"
            )
        if not self.policy and self.corrector == "none":
            raise ValueError("policy=false is imitation alone, which needs a corrector")
        if min(self.judge_reward, self.length_reward) < 0 or (self.judge_reward and self.corrector == "none"):
            raise ValueError(
                f"judge_reward {self.judge_reward}, length_reward {self.length_reward}: none may be negative, and a judge is a"
                " --corrector"
            )
        if not self.policy and not self.imitates:
            raise ValueError("policy=false is imitation alone, which coef=0 and judge_reward leave out")
        if not 0 <= self.led < 1:
            raise ValueError(f"led {self.led} is outside 0..1, or all of it")
        if self.draws < 1:
            raise ValueError(f"draws {self.draws}: must be at least 1; coef=0 imitates nothing")
        if self.probes < 2:
            raise ValueError(f"probes {self.probes}: sensitivity swaps the images of at least two")
        self.credit_for(1.0)

    @property
    def cut(self) -> str:
        """`truncation`; without a corrector there is no target formula to be left, and a reward below 0 cuts alone."""
        return "reward" if self.truncation == "target" and not self.corrects else self.truncation

    def n_guided(self, group: int) -> int:
        """How many episodes of a group the corrector guides. Raises ValueError where fewer than two others are left."""
        if not self.imitates or self.led == 0:
            return 0
        n = round(self.led * group)
        if not 1 <= n <= group - 2:
            raise ValueError(
                f"--gtr led={self.led:g} of {group} episodes a group is {n}: guide at least one and leave two to compare,"
                " or guide none (led=0)"
            )
        return n

    @property
    def corrects(self) -> bool:
        return self.corrector != "none" and self.per_group != 0

    @property
    def imitates(self) -> bool:
        """Whether what is corrected is imitated."""
        return self.corrects and self.coef > 0 and not self.judge_reward

    def credit_for(self, success_reward: float) -> Credit:
        return Credit(self.credit, self.gamma, self.format_weight, success_reward)

    def weight_at(self, step: int, n_steps: int) -> float:
        """The imitation term's weight at a step of a run."""
        return self.coef if self.schedule == "constant" else self.coef * max(0.0, 1 - step / max(1, n_steps))


NOT_GUIDED = GuideOptions()
OWN_FLAGS = ("corrector", "endpoint", "coef", "thought_weight", "per_group")
"""Fields that have flags of their own; the others are set by `--gtr name=value`."""
OF_ENDPOINT = (
    "timeout_s", "n_parallel", "max_tokens", "max_failed_share", "max_calls", "max_cost", "input_cost", "output_cost", "gold"
)  # fmt: skip
"""Fields of `RemoteOptions` that are set by `--gtr name=value` too."""


@dataclass(frozen=True)
class GuideConfig:
    """The options of thought correction (GTR) and of card games; see `GuideOptions` for what they mean."""

    corrector: str = field(
        default="none",
        metadata={"help": "Who corrects thoughts: none, oracle, model:NAME (with --corrector_url), checkpoint:FOLDER."},
    )
    corrector_url: str | None = field(default=None, metadata={"help": "OpenAI-compatible endpoint of --corrector model:NAME."})
    gtr_coef: float = field(default=1.0, metadata={"help": "Weight of the imitation of corrected thoughts."})
    thought_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of thought tokens in the policy term, 0..1. Default: 0.5 in card games, else 1."},
    )
    correct_per_group: int | None = field(
        default=None,
        metadata={"help": "Corrections a group. Default: every step of episodes, one completion of single questions."},
    )
    gtr: list[str] | None = field(
        default=None,
        metadata={
            "help": "Further options as name=value: aggregate, clone, schedule, policy, credit, truncation, ...; of a corrector"
            " model:NAME also max_calls, max_cost, input_cost, output_cost, timeout_s, n_parallel, ..."
        },
    )
    curriculum: str | None = field(
        default=None, metadata={"help": "TASK:SHARE: the first share of the run plays deals of an easier card game."}
    )


def read_guide(guide: GuideConfig) -> GuideOptions:
    """The options that flags ask for. Raises ValueError."""
    return read_guide_options(
        guide.gtr or [],
        corrector=guide.corrector,
        corrector_url=guide.corrector_url,
        coef=guide.gtr_coef,
        thought_weight=guide.thought_weight,
        per_group=guide.correct_per_group,
    )


def read_curriculum(text: str | None, tasks: Sequence[Task]) -> tuple[Task, float] | None:
    """The task of `TASK:SHARE` and its share of the run, for a run on `tasks`. Raises ValueError."""
    if text is None:
        return None
    name, _, number = text.partition(":")
    easier = load_task(name)
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 < share < 1 or not all(map(_is_game, (easier, *tasks))):
        raise ValueError(f"--curriculum {text}: give a card game and its share of the run, as in ezpoints:0.3")
    return easier, share


def _is_game(task: Task) -> bool:
    """Whether a task's drawn training samples are episodes."""
    return task.synthetic is not None and task.is_episode(task.synthetic(0, "train", 0))


def read_guide_options(words: Sequence[str], corrector_url: str | None = None, **flags: Any) -> GuideOptions:
    """Options from `name=value` words, the endpoint's address and the fields with flags. Raises ValueError; of an unknown name
    it names the nearest option."""
    types = typing.get_type_hints(GuideOptions) | {name: typing.get_type_hints(RemoteOptions)[name] for name in OF_ENDPOINT}
    known = [field.name for field in dataclasses.fields(GuideOptions) if field.name not in OWN_FLAGS] + list(OF_ENDPOINT)
    found = {name: _typed(name, text, types[name]) for name, text in split_pairs(words, "--gtr", known).items()}
    given = {name: value for name, value in flags.items() if value is not None}
    endpoint = {name: found.pop(name) for name in OF_ENDPOINT if name in found}
    kind, _, model = str(given.get("corrector", "none")).partition(":")
    if kind != "model" and (endpoint or corrector_url):
        option = "--corrector_url" if corrector_url else f"--gtr {next(iter(endpoint))}"
        raise ValueError(f"corrector {given.get('corrector', 'none')!r} has no endpoint; {option} is for model:NAME")
    if kind == "model" and model:
        given["endpoint"] = RemoteOptions(model, corrector_url or "", **endpoint)
    return GuideOptions(**given, **found)


def _typed(name: str, text: str, kind: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(f"--gtr {name}={text}: give one of {', '.join(typing.get_args(kind))}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"--gtr {name}={text}: give true or false")
        return text.lower() == "true"
    whole = int in (kind, *typing.get_args(kind))
    try:
        number = int(text) if whole else float(text)
    except ValueError as error:
        raise ValueError(f"--gtr {name}={text}: not {'a whole' if whole else 'a'} number") from error
    if not math.isfinite(number):
        raise ValueError(f"--gtr {name}={text}: not a finite number")
    return number
