"""The records that cross module borders: what a sample, a completion's score and a prediction are.

Everything here is frozen and free of torch. `Sample` is one line of the JSONL file described in the README; reading and
checking such a file is here too (`read_samples`), opening its images is not (`vlrl.data.images.open_image`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CARD_TASKS = ("cards", "numberline", "ezpoints", "points24", "blackjack")
TASKS_IN_SCHEMA = ("detection", "grounding", "classification", "planning", "qa", *CARD_TASKS)
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


@dataclass(frozen=True)
class Sample:
    """One question with its verifiable answer.

    `images` hold absolute paths once read from a file (or `synthetic:` addresses, drawn when opened). `answer` depends on
    `task`: detection: a list of `{"bbox_2d": [x1, y1, x2, y2], "label": str}` in ORIGINAL image pixels; grounding: one
    `{"bbox_2d": [...]}`; classification: the label; planning: `{"speed": str, "path": str}`; qa: a string, a number, or a
    list of strings any of which is right; card games: see `vlrl.envs.cards.deals`.
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


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says of one completion. `value=None`: the reward does not apply. `answer=None`: nothing could be
    read (the value is then 0, never a guess). `why` is one short human sentence."""

    value: float | None
    answer: Any = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One completion of one sample, as logged in `predictions.jsonl`. `truncated`: it ended at the token limit, without
    an end-of-sequence token."""

    id: str
    completion: str
    n_tokens: int
    truncated: bool
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number over a set, with its 95 % interval and standard error. `n` counts what was averaged (samples unless said
    otherwise)."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int
    stderr: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Reward:
    """A named scoring function. `function` is `(text, sample) -> Score`, or, when `needs` holds `"group"`,
    `(texts, samples) -> [Score]` over the completions of one group. Other needs are passed as keywords of that name
    (`step`: optimizer steps done; `n_tokens`: length in tokens; `base`: the value of another reward, see
    `vlrl.rewards.score_rows`). `"tags"` marks rewards that require answer tags; `"network"` and `"processes"` those
    that are worth waiting for side by side. Keyword-only parameters of `function` beyond these are the reward's options.

    `tasks`: the tasks whose samples it can score (empty: any); it does not apply to other rows of a mixed file.
    """

    name: str
    function: Callable[..., Any]
    low: float
    high: float
    needs: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Task:
    """Everything that makes a task: how it is asked, answered, paid and measured."""

    name: str
    prompt: Callable[[Sample], str]
    """The user turn's text, without image placeholders. Training, SFT and evaluation all use this one function."""
    oracle: Callable[[Sample], str]
    """A completion that earns full marks, in the forms that `sample.meta` asks for (`coords`, `answer_format`,
    `box_format`)."""
    sft_target: Callable[[Sample], str]
    """The completion the supervised stage imitates."""
    check: Callable[[Sample], str | None]
    """What is wrong with this sample's answer, or None."""
    rewards: Callable[[Sample], tuple[str, ...]]
    """The rewards that pay this sample unless a run names its own."""
    metrics: Callable[[Sequence[Sample], Sequence[Prediction]], tuple[dict[str, Metric], int]]
    """Metrics by name, and how many completions could not be parsed."""
    headline: str
    synthetic: Callable[[int, str, int], Sample]
    """`(seed, split, index) -> Sample`; equal arguments give equal samples and pixels."""
    is_episode: Callable[[Sample], bool] = lambda sample: False
    """Whether a sample is a game to be played, one reply a step, whose completion is the transcript of all replies."""
    thought_format: str = "tags"
    """Where a completion's thought is: "tags", between `<think>` and `</think>`; "json", the fields before `action` of a JSON
    object, as in games."""


class SampleError(ValueError):
    """A sample file that cannot be used; the message names file, line, id, value and what to do."""


_KEYS = {"id", "task", "images", "video", "question", "answer", "choices", "meta"}
_REQUIRED = ("id", "task", "question", "answer")


def sample_from_json(row: Any, where: str, root: Path) -> Sample:
    """One decoded JSON object -> `Sample`; relative image paths are joined to `root`. Raises SampleError."""
    if not isinstance(row, dict):
        raise SampleError(f"{where}: a sample is a JSON object, got {type(row).__name__}")
    for key in row:
        if key not in _KEYS:
            raise SampleError(f"{where}: unknown key {key!r}; known keys: {', '.join(sorted(_KEYS))}")
    for key in _REQUIRED:
        if key not in row:
            raise SampleError(f"{where}: missing key {key!r}")
    where = f"{where} (id {row['id']!r})"
    for key in ("id", "question"):
        if not isinstance(row[key], str) or not row[key]:
            raise SampleError(f"{where}: {key!r} must be a non-empty string, got {row[key]!r}")
    if row["task"] not in TASKS_IN_SCHEMA:
        raise SampleError(f"{where}: unknown task {row['task']!r}; known: {', '.join(TASKS_IN_SCHEMA)}")
    images, video = row.get("images") or [], row.get("video")
    if not isinstance(images, list) or not all(isinstance(path, str) and path for path in images):
        raise SampleError(f"{where}: 'images' must be a list of paths, got {images!r}")
    if video is not None and (images or not isinstance(video, str)):
        raise SampleError(f"{where}: give either 'images' (list) or 'video' (one path), never both")
    choices = row.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(c, str) for c in choices)):
        raise SampleError(f"{where}: 'choices' must be a list of strings, got {choices!r}")
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise SampleError(f"{where}: 'meta' must be an object, got {meta!r}")
    for key, known in (("coords", COORDS), ("answer_format", ANSWER_FORMATS), ("box_format", BOX_FORMATS)):
        if meta.get(key) not in (None, *known):
            raise SampleError(f"{where}: unknown meta.{key} {meta[key]!r}; known: {', '.join(known)}")
    return Sample(
        id=row["id"],
        task=row["task"],
        question=row["question"],
        answer=row["answer"],
        images=tuple(_resolve(path, root) for path in images),
        video=None if video is None else _resolve(video, root),
        choices=None if choices is None else tuple(choices),
        meta=meta,
    )


def _resolve(path: str, root: Path) -> str:
    return path if path.startswith("synthetic:") else str(root / path)


def sample_to_json(sample: Sample, root: Path | None = None) -> dict[str, Any]:
    """The JSON object of a sample; with `root`, image paths below it are written relative to it."""

    def shorten(path: str) -> str:
        return str(Path(path).relative_to(root)) if root and Path(path).is_relative_to(root) else path

    row: dict[str, Any] = {"id": sample.id, "task": sample.task}
    if sample.images:
        row["images"] = [shorten(path) for path in sample.images]
    if sample.video is not None:
        row["video"] = shorten(sample.video)
    row |= {"question": sample.question, "answer": sample.answer}
    if sample.choices is not None:
        row["choices"] = list(sample.choices)
    if sample.meta:
        row["meta"] = dict(sample.meta)
    return row


def read_samples(
    path: str | Path, image_root: str | Path | None = None, limit: int | None = None, *, need_images: bool = True
) -> list[Sample]:
    """Read and check a JSONL file of samples (UTF-8, one object a line, empty lines skipped).

    Images are checked to exist (unless `need_images` is False: scoring needs none), not opened. Raises SampleError naming
    file and line for anything malformed: wrong JSON, unknown or missing keys, a duplicate id (both lines), a missing image,
    an empty file.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(f"{path}: no such file; give a JSONL file of samples (data_prep/ has converters)")
    root = Path(image_root) if image_root is not None else path.parent
    samples: list[Sample] = []
    line_of: dict[str, int] = {}
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            where = f"{path}:{number}"
            try:
                text = raw.decode("utf-8").strip()
                row = json.loads(text) if text else None
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                hint = " (data_prep/ converts VOC and COCO files)" if number == 1 else ""
                raise SampleError(f"{where}: not a line of UTF-8 JSON: {error}{hint}") from error
            if row is None and not text:
                continue
            sample = sample_from_json(row, where, root)
            if sample.id in line_of:
                raise SampleError(f"{where}: id {sample.id!r} was used on line {line_of[sample.id]}; ids must be unique")
            line_of[sample.id] = number
            for image in (*sample.images, *([sample.video] if sample.video else [])):
                found = Path(image).is_file() or (image == sample.video and Path(image).is_dir())
                if need_images and not image.startswith("synthetic:") and not found:
                    raise SampleError(
                        f"{where} (id {sample.id!r}): no such file {image};"
                        f" paths are relative to {root} (--image_root changes that)"
                    )
            samples.append(sample)
            if limit is not None and len(samples) >= limit:
                break
    if not samples:
        raise SampleError(f"{path}: holds no samples")
    return samples


def is_there(picture: str) -> bool:
    """Whether an image, a video or a folder of frames exists; what is drawn when opened always does."""
    return picture.startswith("synthetic:") or Path(picture).exists()


def box_problem(xyxy: Any, size_wh: tuple[int, int] | None) -> str | None:
    """What is wrong with a ground-truth box in original pixels (`size_wh` = image width, height; 1 px of slack)."""
    if not isinstance(xyxy, list | tuple) or len(xyxy) != 4:
        return f"a box is [x1, y1, x2, y2], got {xyxy!r}"
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in xyxy):
        return f"box {list(xyxy)} has a value that is not a finite number"
    x1, y1, x2, y2 = xyxy
    if x2 <= x1 or y2 <= y1:
        return f"box {list(xyxy)} has no area (x2 must exceed x1 and y2 must exceed y1)"
    if size_wh is not None:
        width, height = size_wh
        if x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
            return (
                f"box {list(xyxy)} lies outside the {width}x{height} image; boxes are original pixels, not resized or 0..1000"
            )
    return None
