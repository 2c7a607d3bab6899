"""Rows of preference pairs, as every reader of them takes them: images, prompt and two completions, each checked. No torch.

`image` or `images` (none for text alone), `question` or `prompt`, `chosen`, `rejected`; each of the texts a text or a list of
messages (TRL's rows) with one turn of its own role. `system` is a text, or a message of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.answers.whole_text import is_whole
from vlrl.data.files import read_json_lines
from vlrl.data.sample_files import is_there
from vlrl.data.sample_json import file_of, in_file
from vlrl.data.step_values import question_key
from vlrl.schema import SampleError

PAIR_SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class PreferenceRow:
    """One row. `where`: file and line; `row`: all of it; `prompt_key`: equal for rows of one prompt about the same images."""

    where: str
    id: str
    images: tuple[str, ...]
    system: str
    prompt: str
    chosen: str
    rejected: str
    row: Mapping[str, Any]

    @property
    def prompt_key(self) -> str:
        return question_key("|".join(self.images), self.prompt)


def read_preference_rows(path: Path, image_root: Path | None, prompt_keys: Sequence[str]) -> Iterator[PreferenceRow]:
    """The rows of a JSONL file; relative image paths start at `image_root` (default: the file's folder). `prompt_keys`: where
    the prompt may stand, the first that a row has. Raises SampleError naming file, line and value."""
    seen: dict[str, str] = {}
    for where, row in read_json_lines(path):
        found = _checked(row, where, len(seen), image_root or path.parent, prompt_keys)
        if found.id in seen:
            raise SampleError(f"{where}: id {found.id!r} was used at {seen[found.id]}; ids must be unique")
        seen[found.id] = where
        yield found
    if not seen:
        raise SampleError(f"{path}: holds no pairs; a row is {{image, question, chosen, rejected}}")


def _checked(row: Mapping[str, Any], where: str, number: int, root: Path, prompt_keys: Sequence[str]) -> PreferenceRow:
    if not is_whole(dict(row)):
        raise SampleError(f"{where}: holds half of a surrogate pair, which no tokenizer can read; leave the row out")
    if row.get("video") is not None or row.get("videos") is not None:
        raise SampleError(f"{where}: pairs about videos are not supported; give frames as 'images'")
    images = row.get("images", row.get("image"))
    images = [] if images is None else [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(one, str) and one for one in images):
        raise SampleError(f"{where}: 'image' must be a path, or 'images' a list of paths, got {images!r:.60}")
    key = next((one for one in prompt_keys if one in row), prompt_keys[0])
    system = row.get("system", _message(row.get(key), "system", key, where) or "")
    if not isinstance(system, str):
        raise SampleError(f"{where}: 'system' must be text, got {system!r:.60}")
    prompt = _text(row, key, "user", where)
    chosen, rejected = (_text(row, side, "assistant", where) for side in PAIR_SIDES)
    shown = tuple(_resolved(one, where, root) for one in images)
    return PreferenceRow(where, str(row.get("id", number)), shown, system, prompt, chosen, rejected, row)


def _text(row: Mapping[str, Any], key: str, role: str, where: str) -> str:
    """A text, or that of the one message of this role; in TRL's rows a side may repeat the question before it."""
    value = row.get(key)
    text = _message(value, role, key, where) if isinstance(value, list) else value
    if not isinstance(text, str) or not text.strip():
        held = ", ".join(sorted(row))
        raise SampleError(f"{where}: {key!r} must be text or messages, got {value!r:.60} (the row has {held})")
    return text


def _message(value: Any, role: str, key: str, where: str) -> str | None:
    """The text of the only message of a role in a list of messages; None without one. Several turns are refused: which of them
    is judged would be a guess."""
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        return None
    turns = [one.get("content") for one in value if one.get("role") == role]
    if len(turns) > 1:
        raise SampleError(
            f"{where}: {key!r} holds {len(turns)} messages of the {role}; one question and one answer a row are read"
        )
    if not turns:
        return None
    if isinstance(turns[0], str):
        return turns[0]
    parts = turns[0] if isinstance(turns[0], list) else []
    return "".join(str(one.get("text") or "") for one in parts if isinstance(one, Mapping))


def _resolved(path: str, where: str, root: Path) -> str:
    if (file := file_of(path)) is not None:
        path = in_file(path, str((root / file).resolve()))
    if not is_there(path):
        raise SampleError(f"{where}: its image {path} is missing; --image_root says where relative paths start")
    return path
