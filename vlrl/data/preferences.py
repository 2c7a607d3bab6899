"""Training data of a reward model: two answers to one question about images, and which of them is preferred. No torch.

Rows: `image` or `images` (none for text alone), `question` (or TRL's `prompt`), `chosen`, `rejected`; each of the three a text
or a list of messages. Optional: `tie` (true: neither is better), `margin` (how much better, 0 or more), `ratings` (`{"chosen":
{"helpfulness": 4}, "rejected": {...}}`), `subset` (a part that is reported by itself), `id`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.data.files import read_json_lines
from vlrl.data.sample_files import is_there
from vlrl.data.sample_json import file_of, in_file
from vlrl.data.step_values import question_key
from vlrl.data.subsets import drawn_items
from vlrl.data.synthetic.steps import solution, step_question
from vlrl.schema import SampleError


@dataclass(frozen=True)
class PreferenceRecord:
    """One pair. `ratings`: of the chosen and the rejected answer, by attribute. `question_key`: equal for all pairs of one
    question about the same images."""

    id: str
    question_key: str
    images: tuple[str, ...]
    question: str
    chosen: str
    rejected: str
    is_tie: bool = False
    margin: float | None = None
    ratings: tuple[Mapping[str, float], Mapping[str, float]] = field(default_factory=lambda: ({}, {}))
    subset: str = ""


def read_preferences(path: Path, image_root: Path | None = None, limit: int | None = None) -> list[PreferenceRecord]:
    """The pairs of a file of JSON lines; relative image paths start at `image_root` (default: the file's folder). `limit`: so
    many of them, drawn. Raises SampleError naming file, line and value."""
    records = [_pair(row, where, n, image_root or path.parent) for n, (where, row) in enumerate(read_json_lines(path))]
    if not records:
        raise SampleError(f"{path}: holds no rows; each is a JSON object with question, chosen and rejected")
    return drawn_items(records, [record.question_key for record in records], limit, 0)


def _pair(row: dict[str, Any], where: str, number: int, root: Path) -> PreferenceRecord:
    images = tuple(_image(one, where, root) for one in _image_list(row, where))
    question = _text(row, "question" if "question" in row else "prompt", where)
    chosen, rejected, is_tie = _text(row, "chosen", where), _text(row, "rejected", where), row.get("tie", False)
    if not isinstance(is_tie, bool):
        raise SampleError(f"{where}: 'tie' must be true or false, got {is_tie!r:.60}")
    if chosen == rejected and not is_tie:
        raise SampleError(f"{where}: chosen and rejected are the same text; leave the row out, or say that it is a tie")
    margin = row.get("margin")
    if margin is not None and (not _is_number(margin) or margin < 0):
        raise SampleError(f"{where}: 'margin' must be a number, 0 or more, got {margin!r:.60}")
    key = question_key("|".join(images), question)
    name, subset = str(row.get("id", number)), str(row.get("subset", ""))
    known = None if margin is None else float(margin)
    return PreferenceRecord(name, key, images, question, chosen, rejected, is_tie, known, _ratings(row, where), subset)


def _image_list(row: Mapping[str, Any], where: str) -> Sequence[Any]:
    found = row.get("images", row.get("image"))
    found = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise SampleError(f"{where}: 'image' must be a path, or 'images' a list of paths, got {found!r:.80}")
    return found


def _image(path: str, where: str, root: Path) -> str:
    if (file := file_of(path)) is not None:
        path = in_file(path, str((root / file).resolve()))
    if not is_there(path):
        raise SampleError(f"{where}: its image {path} is missing; give the folder of the images with --image_root")
    return path


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    """A text, or the text of the last message of a list of messages."""
    value = row.get(key)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        content = value[-1].get("content")
        parts = content if isinstance(content, list) else []
        texts = [str(one.get("text") or "") for one in parts if isinstance(one, dict)]
        value = content if isinstance(content, str) else "".join(texts)
    if not isinstance(value, str) or not value.strip():
        held = ", ".join(sorted(row))
        raise SampleError(f"{where}: {key!r} must be text or messages, got {value!r:.60} (the row has {held})")
    return value


def _ratings(row: Mapping[str, Any], where: str) -> tuple[Mapping[str, float], Mapping[str, float]]:
    given = row.get("ratings") or {}
    if not isinstance(given, dict) or not given.keys() <= {"chosen", "rejected"}:
        raise SampleError(f"{where}: 'ratings' must hold chosen and rejected, each {{attribute: number}}, got {given!r:.80}")
    for one in given.values():
        if not isinstance(one, dict) or not all(_is_number(value) for value in one.values()):
            raise SampleError(f"{where}: 'ratings' must give numbers by attribute, got {one!r:.80}")
    return tuple({name: float(value) for name, value in given.get(side, {}).items()} for side in ("chosen", "rejected"))  # type: ignore[return-value]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def synthetic_preference(seed: int, split_name: str, index: int) -> PreferenceRecord:
    """A drawn board: its right solution before one by the noisy solver that ends wrong. Rated by `right_steps`, the share of
    steps that are right, and `right_answer`."""
    drawn = step_question(seed, split_name, index)
    good = solution(seed, split_name, index, 0, noisy=False)
    wrong = (solution(seed, split_name, index, number) for number in range(1000))
    bad = next(one for one in wrong if one.answer != drawn.answer)
    share = sum(bad.values) / len(bad.values)
    ratings = ({"right_steps": 1.0, "right_answer": 1.0}, {"right_steps": share, "right_answer": 0.0})
    key = question_key(drawn.image, drawn.question)
    return PreferenceRecord(drawn.id, key, (drawn.image,), drawn.question, good.text, bad.text, False, 1 - share, ratings)
