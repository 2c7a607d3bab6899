"""One sample as JSON: the object of a line of a data file, read with every key checked, and written again.

And the addresses of images: a path, `synthetic:`, or a place inside a Parquet file or a tar shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vlrl.schema import ANSWER_FORMATS, BOX_FORMATS, COORDS, ModelView, Sample, SampleError

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
    for key in ("id", "task", "question"):
        if not isinstance(row[key], str) or not row[key]:
            raise SampleError(f"{where}: {key!r} must be a non-empty string, got {row[key]!r}")
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
    view = _view(meta, where)
    return Sample(
        id=row["id"],
        task=row["task"],
        question=row["question"],
        answer=row["answer"],
        images=tuple(_resolve(path, root) for path in images),
        video=None if video is None else _resolve(video, root),
        choices=None if choices is None else tuple(choices),
        meta={key: value for key, value in meta.items() if key not in ("coords", "input_size")},
        view=view,
    )


def _view(meta: Mapping[str, Any], where: str) -> ModelView:
    """What a row states of the model that has answered it. Raises SampleError."""
    size = meta.get("input_size")
    if size is None:
        return ModelView(meta.get("coords"))
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(v, int | float) and 0 < v < math.inf for v in size):
        raise SampleError(f"{where}: meta.input_size must be [width, height] in pixels, got {size!r}")
    return ModelView(meta.get("coords"), (size[0], size[1]))


PACKED = ("parquet:", "tar:")
"""How the address of an image inside a larger file begins (`vlrl.data.packed_images`)."""
ADDRESSED = ("synthetic:", *PACKED)
"""How an image begins that is no path of a file of its own."""


def file_of(path: str) -> str | None:
    """The file that an image's path or address names; None for an image that is drawn (`synthetic:`)."""
    if not path.startswith(ADDRESSED):
        return path
    return None if path.startswith("synthetic:") else unquote(path.partition(":")[2].partition("#")[0])


def in_file(path: str, file: str) -> str:
    """An image's path or address with another file in it; "%" and "#" of a file's name are written as %25 and %23 there."""
    if not path.startswith(PACKED):
        return path if path.startswith("synthetic:") else file
    return path.partition(":")[0] + ":" + file.replace("%", "%25").replace("#", "%23") + "#" + path.partition("#")[2]


def _resolve(path: str, root: Path) -> str:
    file = file_of(path)
    return path if file is None else in_file(path, str(root / file))


def sample_to_json(sample: Sample, root: Path | None = None) -> dict[str, Any]:
    """The JSON object of a sample; with `root`, image paths below it are written relative to it."""

    def shorten(path: str) -> str:
        file = file_of(path)
        is_below = root and file is not None and Path(file).is_relative_to(root)
        return in_file(path, str(Path(file).relative_to(root))) if root and file is not None and is_below else path

    row: dict[str, Any] = {"id": sample.id, "task": sample.task}
    if sample.images:
        row["images"] = [shorten(path) for path in sample.images]
    if sample.video is not None:
        row["video"] = shorten(sample.video)
    row |= {"question": sample.question, "answer": sample.answer}
    if sample.choices is not None:
        row["choices"] = list(sample.choices)
    meta = {**sample.meta, **view_to_json(sample.view)}
    if meta:
        row["meta"] = meta
    return row


def view_to_json(view: ModelView) -> dict[str, Any]:
    """What a model's view adds to `meta` where a sample is written as JSON."""
    size = view.input_size
    found: dict[str, Any] = {} if view.coords is None else {"coords": view.coords}
    return found if size is None else {**found, "input_size": list(size)}
