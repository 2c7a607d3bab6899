"""What `vlrl bench sample` writes of completions and their scores: all of them, the best for SFT, and preference pairs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.answers.whole_text import is_whole
from vlrl.data.changed_spans import changed_spans, shared_share
from vlrl.data.sample_json import file_of, in_file, sample_to_json
from vlrl.schema import Prediction, Sample, Score

LEAST_DEVIATION = 1e-4
"""Added to the deviation of a group, as in GRPO."""


@dataclass(frozen=True)
class ScoredCompletion:
    """One completion. `total`: the weighted sum of its rewards, None where none applied; `right`: whether the reward of its
    answer is as high as asked, None where nobody asked."""

    number: int
    prediction: Prediction
    scores: Mapping[str, Score]
    total: float | None
    right: bool | None = None

    @property
    def text(self) -> str:
        return self.prediction.completion


@dataclass(frozen=True)
class SampledRow:
    """A row and its completions. `sample`: as read; `ready`: as the model was asked; `system`, `prompt`: what it was asked;
    `has_boxes`: completions may hold boxes."""

    sample: Sample
    ready: Sample
    system: str
    prompt: str
    has_boxes: bool
    completions: tuple[ScoredCompletion, ...]


@dataclass(frozen=True)
class SftOptions:
    best: int = 1
    min_score: float | None = None
    negatives: str = "none"
    negative_weight: float = 1.0


@dataclass(frozen=True)
class PairOptions:
    pairs: int = 1
    choice: str = "best_worst"
    min_margin: float = 0.0
    spans: bool = False


def absolute(sample: Sample) -> Sample:
    """The sample with whole paths, for a file in another folder."""

    def whole(path: str) -> str:
        file = file_of(path)
        return path if file is None else in_file(path, str(Path(file).resolve()))

    video = None if sample.video is None else whole(sample.video)
    return dataclasses.replace(sample, images=tuple(map(whole, sample.images)), video=video)


def lettered_question(sample: Sample) -> str:
    """The question with its lettered choices, as a reward model sees it."""
    return sample.question + "".join(f"\n{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(sample.choices or ()))


def completions_json(row: SampledRow) -> dict[str, Any]:
    """The line of `completions.jsonl`."""
    made = []
    for one in row.completions:
        scores = {name: {"value": s.value, "answer": s.answer, "why": s.why} for name, s in one.scores.items()}
        prediction = one.prediction
        facts: dict[str, Any] = {"n_tokens": prediction.n_tokens, "truncated": prediction.truncated, "score": one.total}
        facts |= {} if one.right is None else {"right": one.right}
        made.append({"completion": one.text, **facts, "rewards": scores})
    asked = {"system": row.system, "prompt": row.prompt} if row.system else {"prompt": row.prompt}
    return {"sample": sample_to_json(absolute(row.sample)), **asked, "completions": made}


def ranked(row: SampledRow) -> list[tuple[float, ScoredCompletion]]:
    """The completions that a row can be written from, the best first, the first of equals before: scored, not empty, not cut at
    the token limit, and of whole characters."""
    usable = [one for one in row.completions if one.text.strip() and not one.prediction.truncated and is_whole(one.text)]
    scored = [(one.total, one) for one in usable if one.total is not None]
    return sorted(scored, key=lambda pair: (-pair[0], pair[1].number))


# ---- rows of the supervised stage


def shaped_negative(n_right: int, n: int) -> float:
    """The weight, below 0, of a wrong completion of a group with `n_right` right ones of `n`: F(1 - p) = (0 - mean) / std of
    its outcomes (OREAL, Lyu et al. 2025, section 2.3, in the normalised form). 0 < n_right < n."""
    p = n_right / n
    return -p / (math.sqrt(p * (1 - p)) + LEAST_DEVIATION)


def sft_rows(row: SampledRow, options: SftOptions) -> list[dict[str, Any]]:
    """Rows that `vlrl train --stage sft` reads: the best completions of a row, imitated as they stand (behaviour cloning of the
    best of N: SuperHF, Mukobi et al. 2023; OREAL, equation 5). With `negatives="oreal"` the positives are right ones, each
    wrong completion has a weight below 0 and each distinct text counts once; a row without right or wrong ones is left out.

    differs: neither paper's KL term, nor OREAL's token weights; a negative's gradient is that of -w log(pi), which is the
    paper's where the policy is still the one that was sampled.
    """
    found = ranked(row)
    if options.negatives == "oreal":
        positive = [one for _, one in found if one.right]
        negative = list({one.text: one for _, one in found if not one.right}.values())
        if not positive or not negative:
            return []
        n_right, n = sum(bool(one.right) for one in row.completions), len(row.completions)
        weight = options.negative_weight * shaped_negative(n_right, n)
        kept = [(one, 1.0) for one in _distinct(positive)[: options.best]]
        return [_sft_row(row, one, weight_) for one, weight_ in [*kept, *((one, weight) for one in negative)]]
    enough = [one for total, one in found if options.min_score is None or total >= options.min_score]
    return [_sft_row(row, one, 1.0) for one in _distinct(enough)[: options.best]]


def _distinct(completions: Sequence[ScoredCompletion]) -> list[ScoredCompletion]:
    """One completion of each text, the first."""
    return list({one.text: one for one in reversed(completions)}.values())[::-1]


def _sft_row(row: SampledRow, one: ScoredCompletion, weight: float) -> dict[str, Any]:
    imitate: dict[str, Any] = {"completion": one.text, "weight": round(weight, 6), "score": one.total}
    if row.has_boxes:
        view = row.ready.view
        imitate |= {"coords": view.coords}
        imitate |= {} if view.input_size is None else {"input_size": list(view.input_size)}
    forms = {key: row.ready.meta[key] for key in ("answer_format", "box_format") if key in row.ready.meta}
    meta = {**row.sample.meta, **forms, "imitate": imitate}
    return sample_to_json(dataclasses.replace(absolute(row.sample), id=f"{row.sample.id}/{one.number}", meta=meta))


# ---- preference pairs


def preference_rows(row: SampledRow, options: PairOptions) -> list[dict[str, Any]]:
    """`{id, image | images, question, prompt, chosen, rejected, margin}` of pairs whose scores differ by more than
    `min_margin`; each text is in one pair. "best_worst": the best with the worst, the second with the last but one ...;
    "nearest": first the pair that has most of its text in common, as a correction has."""
    found = list({one.text: (total, one) for total, one in reversed(ranked(row))}.values())[::-1]
    pairs: list[tuple[ScoredCompletion, ScoredCompletion, float]] = []
    if options.choice == "best_worst":
        for (high, best), (low, worst) in zip(found[: len(found) // 2], reversed(found), strict=False):
            if high - low > options.min_margin:
                pairs.append((best, worst, high - low))
    else:
        every = [
            (-shared_share(best.text, worst.text), i, j)
            for i, (high, best) in enumerate(found)
            for j, (low, worst) in enumerate(found)
            if high - low > options.min_margin
        ]
        taken: set[int] = set()
        for _, i, j in sorted(every):
            if not taken & {i, j}:
                taken |= {i, j}
                pairs.append((found[i][1], found[j][1], found[i][0] - found[j][0]))
    return [_pair_row(row, chosen, rejected, margin, options) for chosen, rejected, margin in pairs[: options.pairs]]


def _pair_row(
    row: SampledRow, chosen: ScoredCompletion, rejected: ScoredCompletion, margin: float, options: PairOptions
) -> dict[str, Any]:
    images = list(absolute(row.sample).images)
    found: dict[str, Any] = {"id": f"{row.sample.id}/{chosen.number}-{rejected.number}"}
    found |= {"image": images[0]} if len(images) == 1 else {"images": images} if images else {}
    found |= {"question": lettered_question(row.sample), "prompt": row.prompt} | ({"system": row.system} if row.system else {})
    found |= {"chosen": chosen.text, "rejected": rejected.text, "margin": round(margin, 9)}
    if options.spans:
        spans = changed_spans(chosen.text, rejected.text)
        found |= {"chosen_changed": [list(one) for one in spans[0]], "rejected_changed": [list(one) for one in spans[1]]}
    return found
