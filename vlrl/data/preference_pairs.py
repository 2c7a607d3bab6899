"""Preference pairs as a policy is trained on them: the prompt it was asked, two completions, and what differs between them.

Rows: those of a reward model (`image` or `images`, `question`, `chosen`, `rejected`; also RLHF-V's), and what `vlrl bench
sample --write preferences` adds: `prompt` (whole, in place of the question), `system`, `chosen_changed` and `rejected_changed`
(spans of characters). Without spans they are found word by word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.answers.whole_text import is_whole
from vlrl.data.changed_spans import TextSpan, changed_spans, spans_problem
from vlrl.data.files import read_json_lines
from vlrl.data.sample_files import is_there
from vlrl.data.sample_json import file_of, in_file
from vlrl.data.step_values import question_key
from vlrl.data.subsets import drawn_items
from vlrl.schema import SampleError

PAIR_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PreferencePair:
    """One pair. `spans`: what differs in the chosen and in the rejected completion; `question_key`: equal for all pairs of one
    prompt about the same images."""

    id: str
    question_key: str
    images: tuple[str, ...]
    system: str
    prompt: str
    chosen: str
    rejected: str
    spans: tuple[tuple[TextSpan, ...], tuple[TextSpan, ...]]


def read_dpo_pairs(path: Path, image_root: Path | None = None, limit: int | None = None) -> list[PreferencePair]:
    """The pairs of a JSONL file; relative image paths start at `image_root` (default: the file's folder). `limit`: so many,
    drawn. Raises SampleError naming file, line and value."""
    found: list[PreferencePair] = []
    seen: dict[str, str] = {}
    for where, row in read_json_lines(path):
        pair = _pair_of(row, where, len(found), image_root or path.parent)
        if pair.id in seen:
            raise SampleError(f"{where}: id {pair.id!r} was used at {seen[pair.id]}; ids must be unique")
        seen[pair.id] = where
        found.append(pair)
    if not found:
        raise SampleError(f"{path}: holds no pairs; a row is {{image, question, chosen, rejected}}")
    return drawn_items(found, [pair.question_key for pair in found], limit, 0)


def divided(pairs: Sequence[PreferencePair], share: float, seed: int = 0) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Training and held-out pairs. Images and questions are divided, not rows, by the order of their hashes; at least one is
    held out. Raises SampleError for a single one."""
    keys = sorted({_group(pair) for pair in pairs})
    if len(keys) < 2:
        raise SampleError("all pairs show the same image, so none can be held out; give held-out pairs by --eval_data")
    out = set(keys[: min(max(1, round(share * len(keys))), len(keys) - 1)])
    return [one for one in pairs if _group(one) not in out], [one for one in pairs if _group(one) in out]


def _group(pair: PreferencePair) -> str:
    return question_key("|".join(pair.images), "" if pair.images else pair.prompt)


def _pair_of(row: Mapping[str, Any], where: str, number: int, root: Path) -> PreferencePair:
    if not is_whole(dict(row)):
        raise SampleError(f"{where}: holds half of a surrogate pair, which no tokenizer can read; leave the row out")
    if row.get("video") is not None:
        raise SampleError(f"{where}: pairs about videos are not supported; give frames as 'images'")
    if row.get("tie") is True:
        raise SampleError(f"{where}: a tie prefers neither answer, so nothing is learnt from it here; leave the row out")
    images = row.get("images", row.get("image"))
    images = [] if images is None else [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(one, str) and one for one in images):
        raise SampleError(f"{where}: 'image' must be a path, or 'images' a list of paths, got {images!r:.60}")
    system = row.get("system", "")
    if not isinstance(system, str):
        raise SampleError(f"{where}: 'system' must be text, got {system!r:.60}")
    texts = {key: _words(row.get(key), key, where) for key in PAIR_SIDES}
    prompt = _words(row.get("prompt", row.get("question")), "prompt" if "prompt" in row else "question", where)
    if texts["chosen"] == texts["rejected"]:
        raise SampleError(f"{where}: chosen and rejected are the same text; leave the row out")
    stated = [row.get(f"{key}_changed") for key in PAIR_SIDES]
    if (stated[0] is None) != (stated[1] is None):
        raise SampleError(f"{where}: give both 'chosen_changed' and 'rejected_changed', or neither")
    for key, spans in zip(PAIR_SIDES, stated, strict=True):
        if spans is not None and (problem := spans_problem(spans, texts[key])):
            raise SampleError(f"{where}: '{key}_changed' {problem}")
    marked = changed_spans(texts["chosen"], texts["rejected"])
    if stated[0] is not None and stated[1] is not None:
        marked = (tuple((a, b) for a, b in stated[0]), tuple((a, b) for a, b in stated[1]))
    shown = tuple(_resolved(one, where, root) for one in images)
    key = question_key("|".join(shown), prompt)
    return PreferencePair(str(row.get("id", number)), key, shown, system, prompt, texts["chosen"], texts["rejected"], marked)


def _resolved(path: str, where: str, root: Path) -> str:
    if (file := file_of(path)) is not None:
        path = in_file(path, str((root / file).resolve()))
    if not is_there(path):
        raise SampleError(f"{where}: its image {path} is missing; --image_root says where relative paths start")
    return path


def _words(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SampleError(f"{where}: {key!r} must be text, got {value!r:.60}")
    return value
