"""The records that cross module borders: what a sample, a completion's score and a prediction are.

Everything here is frozen and free of torch. `Sample` is one line of the JSONL file described in the README. Not here: reading
such a file (`vlrl.data.sample_files`), opening its images (`vlrl.data.images`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

COORDS = ("px", "resized_px", "norm1000", "norm1")
ANSWER_FORMATS = ("think_answer", "answer", "none", "answer_think")
"""How a completion is laid out: thought then answer, answer tags only, the bare answer, answer then thought."""
BOX_FORMATS = ("json", "fenced_json", "position_confidence", "corners")
"""How boxes are written inside the answer."""


@dataclass(frozen=True, slots=True)
class Box:
    """One axis-aligned box, right and bottom edge exclusive. The unit is that of the record that holds it (the
    original image's pixels everywhere but inside `vlrl.answers.boxes`). `label=None` matches no label."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str | None = None
    confidence: float | None = None

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return (self.x1, self.y1, self.x2, self.y2)


class Meta(TypedDict, total=False):
    """What a sample may say beside its question: the keys that this project reads or writes. Others are the user's own.

    A path or id is text; sizes are [width, height] in pixels of the original image.
    """

    # what is asked
    categories: list[str]
    """Of a detection row: what it asks for; default: the labels of its answer."""
    step: str
    """Of a step of a search agent: what comes next, "search" or "answer"."""
    kind: str
    """Of a qa row: how its answers are compared, "number", "yes_no", "math", "exact" ...; "count": how far off is told too."""
    answer_type: str
    """Of a qa row: "integer", "float", "list" or "text", as MathVista states it."""
    precision: int
    """Of a qa row: decimal places of its answer."""
    rewards: list[str]
    """The row's own rewards, in the place of its task's."""
    navigation: str
    """Of a planning row: the route that is asked for, "turn left"."""
    other_plans: list[dict[str, str]]
    """Of a planning row: plans that are right beside its answer."""
    scene: str
    """Of a planning row: the scene it shows; rows of one scene are one group of `--group_by meta.scene`."""
    speed_mps: float
    """Of a planning row: the speed now, in metres a second."""
    game: dict[str, Any]
    """Of a card game: its rules, as `vlrl.envs.cards` takes them."""
    steps: list[str]
    """Of a solution: its steps."""
    # how it is asked and answered
    answer_format: str
    box_format: str
    image_index: int
    """Which of several images boxes refer to, from 0."""
    image_size: list[int]
    video_frames: int
    """The most frames of a video that are taken, and how many a second."""
    video_fps: float
    folder_fps: float
    """Frames a second that a folder of frames holds, where its times are to be known."""
    begun: str
    """How the completion begins: a model goes on from there, and the completion is the whole text."""
    # what its answer is made of
    thinking: str
    """A thought for the supervised stage."""
    imitate: dict[str, Any]
    """A completion that the supervised stage imitates as it stands: `completion`, `weight` in the loss (default 1; below 0 it
    is made less likely), `coords` of its boxes (`vlrl.data.imitated`)."""
    loose_answer: Any
    """An answer near the right one, for the supervised stage of the demo model."""
    loose_reply: str
    polygons: list[list[float]]
    """Of a grounding row: the outlines of what is asked for, [x1, y1, x2, y2, ...] in pixels."""
    ignore_polygons: list[list[float]]
    crowd: list[str]
    """Categories of which regions are marked, that are no boxes of the answer."""
    negatives: list[str]
    """Categories asked for that are not in the image."""
    not_exhaustive: list[str]
    """Categories of which the image has more objects than the answer (LVIS)."""
    frequency: dict[str, str]
    """Category -> "r", "c" or "f": rare, common, frequent (LVIS)."""
    moves: str
    # where it comes from
    dataset: str
    split: str
    source: str
    source_id: str
    group: str
    """What is never divided between training and held-out samples, beside images."""
    ref_id: str
    is_sentence: bool
    half: str
    part: str
    closed: bool
    written_tokens: list[str]
    """Special tokens of the model that the row spells out; they are shown to it as text."""


UNKNOWN_COORDS = "unknown"


@dataclass(frozen=True, slots=True)
class ModelView:
    """How the model of a run sees a sample and writes boxes about it: facts of the model, none of the row.

    `coords`: the convention of boxes in completions, one of `COORDS`; None: none is stated, and they are read as px;
    `UNKNOWN_COORDS`: the model has one that nobody stated, so that no box may be written or read.
    `input_size`: width and height in pixels of the image, or of a frame, after the processor's resize, which resized_px needs.
    `takes_video`: the video of the sample goes to the model as a video; else its frames do, as so many images.
    """

    coords: str | None = None
    input_size: tuple[int, int] | None = None
    takes_video: bool = False


@dataclass(frozen=True)
class Sample:
    """One question with its verifiable answer.

    `images` hold absolute paths once read from a file (or `synthetic:` addresses, drawn when opened, or `parquet:` and `tar:`
    addresses of images inside larger files, see `vlrl.data.packed_images`). `answer` depends on
    `task`: detection: a list of `{"bbox_2d": [x1, y1, x2, y2], "label": str}` in ORIGINAL image pixels; grounding: one
    `{"bbox_2d": [...]}`; classification: the label; planning: `{"speed": str, "path": str}`; qa: a string, a number, or a
    list of strings any of which is right; card games: see `vlrl.envs.cards.deals`; a task of the user's: any JSON value.
    """

    id: str
    task: str
    question: str
    answer: Any
    images: tuple[str, ...] = ()
    video: str | None = None
    """A video file, or a folder of frames, which are taken in the order of their names."""
    choices: tuple[str, ...] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    """See `Meta`, and whatever else a row says."""
    view: ModelView = ModelView()

    def __post_init__(self) -> None:
        if "coords" in self.meta or "input_size" in self.meta:
            raise ValueError(f"sample {self.id!r}: coords and input_size are facts of a model: view=ModelView(coords=...)")

    @property
    def coords(self) -> str:
        """The convention of boxes in completions; px where none is stated. Raises SampleError where the model's is unknown."""
        if self.view.coords == UNKNOWN_COORDS:
            raise SampleError(
                "a box is written, but it is not known how this model counts coordinates; give --coords norm1000 | norm1 | px |"
                " resized_px, as it was trained (docs/models.md lists the families that are known)"
            )
        return self.view.coords or "px"

    @property
    def facts(self) -> Meta:
        """`meta` with the types of the keys that this project knows."""
        return cast(Meta, self.meta)


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says of one completion. `value=None`: the reward does not apply. `answer=None`: nothing could be
    read (the value is then 0, never a guess). `why` is one short human sentence. `credits`: of a reward that pays steps one by
    one, for each step in order the character of the completion it ends before and what its tokens are credited with."""

    value: float | None
    answer: Any = None
    why: str = ""
    credits: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One completion of one sample, as logged in `predictions.jsonl`. `n_tokens`: None where nobody counted them. `truncated`:
    it ended at the token limit, without an end-of-sequence token."""

    id: str
    completion: str
    n_tokens: int | None
    truncated: bool
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number over a set, with its 95 % interval and standard error. `n` counts what was averaged (samples unless stated
    otherwise)."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    stderr: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Result:
    """What a task's `metric` says of one sample's prediction.

    `parts`: metric name -> (numerator, denominator), the headline first; over a set a metric is the ratio of its sums.
    `answer`: what was read, as text for people. `is_read=False`: no answer could be read. `data`: whatever the task's own
    `aggregate` and `extra` need.
    """

    parts: Mapping[str, tuple[float, float]]
    answer: str | None = None
    is_read: bool = True
    data: Any = None


OUTCOMES = ("right", "partly", "wrong", "unparsed")


@dataclass(frozen=True, slots=True)
class Row:
    """One sample's result, as `scores.jsonl` holds it (`data` apart).

    `image`: what the sample shares with others that are not independent of it. `parts`: see `Result`. `outcome`: one of
    `OUTCOMES`; right means a headline of 1 or more, wrong of 0 or less. `ground_truth` and `answer` are texts for people.
    """

    id: str
    image: str
    parts: Mapping[str, tuple[float, float]]
    outcome: str
    ground_truth: str = ""
    answer: str = ""
    confidence: float | None = None
    completion: str = ""
    data: Any = field(default=None, compare=False)

    @property
    def value(self) -> float:
        """The sample's share of the headline; 1 where it adds nothing (an empty truth answered by none)."""
        numerator, denominator = next(iter(self.parts.values()))
        return numerator / denominator if denominator else 1.0

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {key: getattr(self, key) for key in ("id", "image", "outcome", "ground_truth", "answer")}
        row["parts"] = {name: list(part) for name, part in self.parts.items()}
        row |= {} if self.confidence is None else {"confidence": self.confidence}
        return row | ({"completion": self.completion} if self.completion else {})


@dataclass(frozen=True)
class Reward:
    """A named scoring function. `function` is `(text, sample) -> Score`, or, when `needs` holds `"group"`,
    `(texts, samples) -> [Score]` over the completions of one group. Other needs are passed as keywords of that name
    (`step`: optimizer steps done; `n_tokens`: length in tokens; `base`: the value of another reward, see
    `vlrl.rewards.score_rows`). `"tags"` marks rewards that require answer tags; `"network"` and `"processes"` those
    that wait for something, side by side. `"model"` marks those that hold a model, which programs load and hand over
    (`vlrl.rewards.model_reward`, `vlrl.rewards.judge_model`): `(texts, samples) -> [Score]` over all rows of a batch.
    Keyword-only parameters of `function` beyond these are the reward's options.

    `answers`: the kinds of answers that it can score (`vlrl.answers.kind`; empty: any); it does not apply to other samples.
    `problem`: why it cannot score a sample of such a kind, or None.
    """

    name: str
    function: Callable[..., Any]
    low: float
    high: float
    needs: frozenset[str] = frozenset()
    answers: frozenset[str] = frozenset()
    problem: Callable[[Sample], str | None] | None = None


RewardLike = str | Callable[..., Any]
"""A reward's name, `path/to/file.py:function`, or a function `(text, sample) -> float | bool | Score | None`."""
Boxes = tuple[Sequence[Box], Sequence[Box] | None]
"""True and predicted boxes in original pixels; no predicted ones (None) where the completion could not be read."""


def _no_problem(sample: Sample) -> str | None:
    return None


def _never(sample: Sample) -> bool:
    return False


def _itself(sample: Sample) -> Sample:
    return sample


@dataclass(frozen=True)
class Task:
    """Everything that makes a task: its prompt, its rewards and its metric. The first four fields are required."""

    name: str
    prompt: Callable[[Sample], str]
    """The user turn's text, without image placeholders. Training, SFT and evaluation all use this one function."""
    rewards: Callable[[Sample], Sequence[RewardLike]] | Sequence[RewardLike]
    """The rewards of a sample unless a run names its own."""
    metric: Callable[[Sample, Prediction], Any]
    """The result of one prediction: a number in 0..1 (1: right), a truth value, a `Result`, or None to leave it out."""
    headline: str = ""
    """The metric a run is judged by; default: the name of the function `metric`."""
    aggregate: Callable[[Sequence[Row]], dict[str, Metric]] | None = None
    """The numbers over a set; default: the mean of each part of the results, with intervals."""
    oracle: Callable[[Sample], str] | None = None
    """A completion that earns full marks, in the forms that `sample.meta` asks for (`coords`, `answer_format`,
    `box_format`)."""
    sft_target: Callable[[Sample], str] | None = None
    """The completion the supervised stage imitates; default: that of `oracle`."""
    synthetic: Callable[[int, str, int], Sample] | None = None
    """`(seed, split, index) -> Sample`; equal arguments give equal samples and pixels. Without it a run needs a file."""
    check: Callable[[Sample], str | None] = _no_problem
    """What is wrong with a sample's answer, or None."""
    is_episode: Callable[[Sample], bool] = _never
    """Whether a sample is a game to be played, one reply a step, whose completion is the transcript of all replies."""
    thought_format: str = "tags"
    """Where a completion's thought is: "tags", between `<think>` and `</think>`; "json", the fields before `action` of a JSON
    object, as in games."""
    boxes: Callable[[Sample, Prediction], Boxes | None] | None = None
    """The boxes to draw on the image."""
    shown_as: Callable[[Sample], Sample] = _itself
    """The sample whose image stands for this one on contact sheets (of an episode, its first state)."""
    default_model: str = "tiny"
    """The embedded model of a run that names none: "tiny" or "tiny-cards"."""
    extra: Callable[[Sequence[Row]], dict[str, Any]] | None = None
    """What is no single number (confusion matrices), as JSON."""
    system: str = ""
    """A system message before the user turn; `--system_prompt` sets it."""
    parallel: Callable[[Sample], bool] = _never
    """Whether `metric` waits for a network: such samples are measured side by side."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"Task: name must be a non-empty string, got {self.name!r}")
        for key in ("prompt", "metric", "check", "is_episode", "shown_as", "parallel"):
            if not callable(getattr(self, key)):
                raise ValueError(f"Task {self.name!r}: {key} must be a function, got {getattr(self, key)!r:.60}")
        for key in ("aggregate", "oracle", "sft_target", "synthetic", "boxes", "extra"):
            if getattr(self, key) is not None and not callable(getattr(self, key)):
                raise ValueError(f"Task {self.name!r}: {key} must be a function or None, got {getattr(self, key)!r:.60}")
        if isinstance(self.rewards, str) or not (callable(self.rewards) or isinstance(self.rewards, Sequence)):
            raise ValueError(
                f"Task {self.name!r}: rewards must be a list of reward names and functions, or a function of the sample that"
                f" returns one, got {self.rewards!r:.60}"
            )
        if self.thought_format not in ("tags", "json"):
            raise ValueError(f"Task {self.name!r}: thought_format must be tags or json, got {self.thought_format!r}")
        if not self.headline:
            named = getattr(self.metric, "__name__", "<lambda>")
            object.__setattr__(self, "headline", "metric" if named == "<lambda>" else named)
        if self.sft_target is None:
            object.__setattr__(self, "sft_target", self.oracle)

    def draw(self, seed: int, split: str, index: int) -> Sample:
        """A synthetic sample. Raises TaskError for a task that draws none, or not those of its name."""
        if self.synthetic is None:
            raise TaskError(f"task {self.name} draws no samples of its own; give a file of samples (--data)")
        sample = self.synthetic(seed, split, index)
        if not isinstance(sample, Sample) or sample.task != self.name:
            raise TaskError(f"task {self.name}: synthetic must return a Sample with task={self.name!r}, got {sample!r:.120}")
        return sample

    def reference(self, sample: Sample) -> str:
        """The reference answer, that of `oracle`. Raises TaskError for a task without one."""
        if self.oracle is None:
            raise TaskError(f"task {self.name} has no oracle, so the reference answer of {sample.id!r} is not known")
        return self.oracle(sample)

    def rewards_for(self, sample: Sample) -> tuple[RewardLike, ...]:
        """The rewards of one sample. Raises TaskError where they are no list of names and functions."""
        found = self.rewards(sample) if callable(self.rewards) else self.rewards
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise TaskError(f"task {self.name}: the rewards of sample {sample.id!r} must be a list, got {found!r:.60}")
        return tuple(found)


class TaskError(ValueError):
    """A task or a reward that does not work; the message names it, the sample and what it did."""


class SampleError(ValueError):
    """A sample file that cannot be used; the message names file, line, id, value and what to do."""
