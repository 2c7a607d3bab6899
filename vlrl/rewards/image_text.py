"""`clip:FOLDER[,option=...]`: how well the place that a completion marks in its image, or the frame that its move leads to,
agrees with a text, by a CLIP model that was trained on none of it.

Source: Rocamonde et al., Vision-Language Models are Zero-Shot Reward Models (VLM-RMs, arXiv 2310.12921). This file reads the
marks and the options; the model is loaded by a program (`vlrl.models.image_text_models`) and handed over. Not here: episodes in
training, which their game pays step by step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vlrl.answers.geometry import XYXY
from vlrl.answers.kind import BOX, BOXES, GAME, answer_kinds
from vlrl.answers.points import read_point
from vlrl.answers.read import read_box, read_boxes, requested_categories, with_canonical_labels
from vlrl.data.clip_files import read_clip, text_problem
from vlrl.data.image_views import ImageView, square_around, within_image
from vlrl.data.images import image_size
from vlrl.envs.cards import read_action
from vlrl.envs.cards.deals import deal_of
from vlrl.envs.cards.transcripts import Playthrough, read_transcript, state_after
from vlrl.rewards.model_reward import options_given
from vlrl.schema import Box, Reward, Sample, Score

CLIP = "clip"
LOWEST = -1.0
"""Of a completion that marks nothing: a cosine can be below 0, and silence must not pay more than a wrong mark."""
MOST_BOXES = 32
"""Marks of one completion that are looked at."""
DEFAULT_ALPHA = 0.5
ASKED_FOR = "{}"
"""Stands for what a row asks for in `goal` and `baseline`."""
_DIGITS = 5
"""Values are rounded: their last digits depend on what else is in a batch, and a run that goes on has other batches."""
Embeddings = NDArray[np.float64]
Embedder = Callable[[Sequence[ImageView], Sequence[str]], tuple[Embeddings, Embeddings]]
"""Views and texts -> their embeddings of length 1, a row each."""


def clip(
    texts: Sequence[str],
    samples: Sequence[Sample],
    *,
    folder: str = "",
    goal: str = ASKED_FOR,
    baseline: str = "",
    alpha: float | None = None,
    mark: Literal["any", "box", "point"] = "any",
    crop: float = 0.3,
    device: str = "",
    batch_size: int = 64,
    models: Embedder | None = None,
) -> list[Score]:
    """The agreement of image and text by the CLIP model in `folder`, in -1..1 (`goal_baseline_reward`); -1 without a mark.

    - One box or point is asked for: the box is cut out, of a point a square of `crop` times the image's shorter side.
      `mark=point` takes the middle of a box for a point, `mark=box` takes no points. `{}` in `goal` and `baseline` is the
      question.
    - Several boxes are asked for: the mean over the different boxes that are written, each with its label for `{}`. Invalid
      boxes and labels that were not asked for count -1. What is missed is not seen. A row without a true box has no value.
    - A move of a card game: the frame after it; the transcript of an episode: the last frame. `goal` holds no `{}`.

    `alpha` (0.5 where `baseline` is given): see `goal_baseline_reward`. `models`: the loaded model. Raises ValueError without
    it, and for a text that it cannot read whole.
    """
    if models is None:
        raise ValueError("its model is not loaded here; this command cannot score with clip")
    asked = _Asked(folder, goal, baseline, mark, crop)
    made = [_marks(text, sample, asked) for text, sample in zip(texts, samples, strict=True)]
    views = list(dict.fromkeys(view for one in made for view, _ in one.marks))
    pairs = list(dict.fromkeys(pair for one in made for _, pair in one.marks))
    if not views:
        return [_score(one, {}) for one in made]
    words = list(dict.fromkeys(text for pair in pairs for text in pair if text))
    images_NE, texts_ME = models(views, words)
    of_view, of_text = dict(zip(views, images_NE, strict=True)), dict(zip(words, texts_ME, strict=True))
    share = 0.0 if not baseline else DEFAULT_ALPHA if alpha is None else alpha
    found = {}
    for view, pair in {mark: None for one in made for mark in one.marks}:
        base_E = of_text[pair[1]] if pair[1] else None
        found[view, pair] = goal_baseline_reward(of_view[view], of_text[pair[0]], base_E, share)
    return [_score(one, found) for one in made]


def goal_baseline_reward(state_E: Embeddings, goal_E: Embeddings, baseline_E: Embeddings | None, alpha: float) -> float:
    """R = 1 - |alpha proj_L(s) + (1 - alpha) s - g|^2 / 2, in -1..1 (VLM-RMs, arXiv 2310.12921, Definition 1).

    s, g, b: embeddings [E] of length 1 of the image, the goal and the baseline; L: the line through b and g. `alpha` 0, or no
    baseline: the cosine of s and g. A larger `alpha` never lowers R. Raises ValueError for a baseline that is the goal.
    """
    off_E = state_E - goal_E
    if baseline_E is not None and alpha:
        along_E = goal_E - baseline_E
        length = float(along_E @ along_E)
        if length < 1e-10:
            raise ValueError("goal and baseline have the same embedding, so no line goes through them; name another baseline")
        on_line_E = (off_E @ along_E) / length * along_E  # proj_L(s) - g
        off_E = alpha * on_line_E + (1 - alpha) * off_E
    return round(float(1 - off_E @ off_E / 2), _DIGITS)


# ---- what a completion marks


@dataclasses.dataclass(frozen=True)
class _Asked:
    folder: str
    goal: str
    baseline: str
    mark: str
    crop: float

    def texts(self, label: str) -> tuple[str, str]:
        """Goal and baseline of a row that asks for `label`; "" for no baseline."""
        return self.goal.replace(ASKED_FOR, label), self.baseline.replace(ASKED_FOR, label)


@dataclasses.dataclass(frozen=True)
class _Marks:
    """`marks`: views, each with its goal and baseline. `n`: how many marks the value is the mean of; those that are not among
    `marks` have the lowest value. 0: the reward does not apply."""

    marks: tuple[tuple[ImageView, tuple[str, str]], ...]
    n: int
    answer: Any
    why: str


def _nothing(why: str) -> _Marks:
    return _Marks((), 1, None, why)


def _marks(text: str, sample: Sample, asked: _Asked) -> _Marks:
    problem = _problem(sample, asked)
    if problem:
        raise ValueError(problem)
    kinds = answer_kinds(sample)
    if GAME in kinds:
        return _frame(text, sample, asked)
    path = sample.images[_image_index(sample)]
    return _several(text, sample, asked, path) if BOXES in kinds else _one(text, sample, asked, path)


def _one(text: str, sample: Sample, asked: _Asked, path: str) -> _Marks:
    """The one box, or the square around the one point."""
    size = _size_px(path)
    box, why = read_box(text, sample) if asked.mark != "point" else (None, "")
    if box is not None:
        region: XYXY = box.xyxy
    else:
        point, no_point = read_point(text, sample) if asked.mark != "box" else (None, why)
        if point is None:
            return _nothing(no_point)
        if not (0 <= point[0] <= size[0] and 0 <= point[1] <= size[1]):
            return _nothing("the point is outside of the image")
        region = square_around(point, asked.crop * min(size))
    cut = within_image(region, size)
    if cut is None:
        return _nothing("the box is outside of the image")
    return _Marks(((ImageView(path, cut), asked.texts(sample.question)),), 1, [round(edge, 1) for edge in region], "")


def _several(text: str, sample: Sample, asked: _Asked, path: str) -> _Marks:
    """Every different box with a label that was asked for."""
    if not sample.answer:
        return _Marks((), 0, None, "nothing is to be found in this image, and what is not there cannot be cut out")
    parsed, why = read_boxes(text, sample)
    if parsed is None or not parsed.n_pred:
        return _nothing(why or "no box")
    boxes = list(dict.fromkeys((box.xyxy, box.label) for box in with_canonical_labels(parsed.items)))
    n = len(boxes) + parsed.n_pred - len(parsed.items)
    if n > MOST_BOXES:
        return _nothing(f"{n} boxes, more than {MOST_BOXES}")
    categories = requested_categories(sample)
    known = {one.label: name for one, name in zip(_labelled(categories), categories, strict=True)}
    size, marks = _size_px(path), []
    for region, label in boxes:
        cut = within_image(region, size)
        if cut is not None and label in known:
            marks.append((ImageView(path, cut), asked.texts(known[label])))
    lost = "" if len(marks) == n else f"{n - len(marks)} of {n} boxes invalid, outside of the image or not asked for"
    return _Marks(tuple(marks), n, [[*map(float, region), label] for region, label in boxes], lost)


def _labelled(categories: Sequence[str]) -> list[Box]:
    return with_canonical_labels(Box(0, 0, 1, 1, name) for name in categories)


def _frame(text: str, sample: Sample, asked: _Asked) -> _Marks:
    """The frame after the move of a state, or the last one of an episode."""
    deal = deal_of(sample)
    if deal.moves is not None:
        action = read_action(text, deal.game)
        if action is None:
            return _nothing("no action in the reply")
        state, played = state_after(deal.game, deal.seed, (*deal.moves, action), may_end=True), [action]
    else:
        turns = read_transcript(text)
        if not turns:
            return _nothing("not a transcript of replies")
        under_way = Playthrough(deal.game, deal.seed)
        for turn in turns:
            if not under_way.done:
                under_way.step(turn)
        state, played = under_way.state, [*under_way.moves]
    return _Marks(((ImageView(deal.game.name, None, state), asked.texts("")),), 1, played, "")


def _score(made: _Marks, found: dict[tuple[ImageView, tuple[str, str]], float]) -> Score:
    if not made.n:
        return Score(None, None, made.why)
    values = [found[mark] for mark in made.marks]
    total = (sum(values) + LOWEST * (made.n - len(values))) / made.n
    shown = " ".join(f"{value:.3f}" for value in values[:8]) + " ..." * (len(values) > 8)
    goals = ", ".join(dict.fromkeys(repr(goal) for _, (goal, _) in made.marks))
    parts = [made.why, f"{shown} with {goals}" if values else ""]
    return Score(max(LOWEST, min(1.0, total)), made.answer, "; ".join(part for part in parts if part))


@lru_cache(maxsize=65_536)
def _size_px(path: str) -> tuple[int, int]:
    return image_size(path)


def _image_index(sample: Sample) -> int:
    return int(sample.facts.get("image_index", 0))


# ---- the option as written


def _problem(sample: Sample, asked: _Asked) -> str | None:
    """Why a sample cannot be scored, or None."""
    kinds = answer_kinds(sample)
    labels = [sample.question] if BOX in kinds else requested_categories(sample) if BOXES in kinds else [""]
    if GAME in kinds:
        if ASKED_FOR in asked.goal + asked.baseline:
            return f"a card game asks for nothing that could stand for {ASKED_FOR}; give goal=TEXT (and a baseline) without it"
    elif sample.video is not None:
        return "clip cuts marks out of images, and this sample has a video"
    elif not 0 <= _image_index(sample) < len(sample.images):
        return f"it has {len(sample.images)} images, and its boxes are of number {_image_index(sample)}"
    for label in labels:
        goal, baseline = asked.texts(label)
        for name, text in (("goal", goal), ("baseline", baseline)):
            if (name == "goal" or asked.baseline) and (problem := text_problem(Path(asked.folder), text)):
                return f"its {name} {text!r:.120} cannot be read whole: {problem}; write another {name}="
        if asked.baseline and _plain(goal) == _plain(baseline):
            return f"its goal and its baseline are the same text {goal!r:.120}; name another baseline="
    return None


def _plain(text: str) -> str:
    """A text as a CLIP tokenizer tells texts apart: case and white space do not count."""
    return " ".join(text.lower().split())


def checked(reward: Reward) -> Reward:
    """The reward, which now also says what it cannot score. Raises ValueError, in one line, for a folder that holds no CLIP
    model, and for options that do not go together."""
    given = {"goal": ASKED_FOR, "baseline": "", "mark": "any", "crop": 0.3, **options_given(reward)}
    asked = _Asked(given["folder"], given["goal"], given["baseline"], given["mark"], given["crop"])
    try:
        read_clip(Path(asked.folder))
    except ValueError as error:
        raise ValueError(f"reward clip: {error}") from error
    problem, alpha = None, given.get("alpha")
    if alpha is not None and not asked.baseline:
        problem = "alpha= is the share of the projection on the line to baseline=TEXT; add one or drop alpha="
    elif alpha is not None and not 0 < alpha <= 1:
        problem = f"alpha={alpha:g} must be above 0 and at most 1 (0 is the plain cosine: drop baseline= and alpha=)"
    elif "baseline" in options_given(reward) and not asked.baseline:
        problem = "baseline= is empty; give a text or drop it"
    elif not 0 < asked.crop <= 1:
        problem = f"crop={asked.crop:g} must be above 0 and at most 1, a share of the image's shorter side"
    elif asked.mark == "box" and "crop" in options_given(reward):
        problem = "crop= is the square around a point, and mark=box takes no points; drop one"
    elif given.get("batch_size", 1) < 1:
        problem = f"batch_size={given['batch_size']} must be 1 or more"
    elif asked.baseline and _plain(asked.goal) == _plain(asked.baseline):
        problem = f"goal and baseline are the same text {asked.goal!r:.120}; name another baseline="
    for name, text in (("goal", asked.goal), ("baseline", asked.baseline)):
        if not problem and ASKED_FOR not in text and (name == "goal" or text):
            found = text_problem(Path(asked.folder), text)
            problem = found and f"{name}={text!r:.120} cannot be read whole: {found}"
    if problem:
        raise ValueError(f"reward clip: {problem}")
    return dataclasses.replace(reward, problem=partial(_problem, asked=asked))


def weight_files(reward: Reward) -> list[Path]:
    """The files of its weights."""
    folder = Path(options_given(reward)["folder"])
    return [folder / name for name in read_clip(folder).weight_files]


def agreement_words(reward: Reward) -> str:
    """What is compared with what, in one line for a run's banner."""
    given = {"goal": ASKED_FOR, "baseline": "", "mark": "any", "crop": 0.3, **options_given(reward)}
    places = [] if given["mark"] == "point" else ["a box as it is"]
    places += [] if given["mark"] == "box" else [f"of a point a square of {given['crop']:g} of the image's shorter side"]
    parts = [f"clip: {given['folder']}", f"cut out: {', '.join(places)}; of a game the frame after the move"]
    asks = f" ({ASKED_FOR} is what the row asks for)" if ASKED_FOR in given["goal"] + given["baseline"] else ""
    parts.append(f"compared with {given['goal']!r}{asks}")
    if given["baseline"]:
        share = DEFAULT_ALPHA if given.get("alpha") is None else given["alpha"]
        parts.append(f"projected on the line from {given['baseline']!r} by alpha {share:g}")
    return "; ".join(parts)
