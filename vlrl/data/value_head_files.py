"""The files of a saved value head, beside those of the model: what they say, checked without loading a weight. No torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_WEIGHTS, HEAD_CONFIG = "value_head.safetensors", "value_head.json"
STEPS, PREFERENCES = "steps", "preferences"
"""What a head was trained on: values of steps (in 0..1, a sigmoid), or preferences between answers (logits, of any size)."""
_MAX_HEADER_BYTES = 1_000_000


def has_head(folder: str | Path) -> bool:
    """Whether a folder holds a process reward model, or one of preferences."""
    return (Path(folder) / HEAD_WEIGHTS).is_file()


@dataclass(frozen=True)
class HeadFacts:
    """`kind`: `STEPS` or `PREFERENCES`. `n_outputs`: qualities that it rates, `gated`: in shares of its own. `mean`, `std`: of
    its values on held-out rows, None where nobody measured them."""

    kind: str
    width: int
    n_outputs: int = 1
    gated: bool = False
    mean: float | None = None
    std: float | None = None


def read_head(folder: Path) -> HeadFacts:
    """What a folder's value head is. Raises ValueError in one line where there is none, or it does not fit the model beside
    it."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the final/ folder of a run of --task prm or --task rm")
    if not has_head(folder):
        raise ValueError(
            f"{folder}: holds no {HEAD_WEIGHTS}, so it is no reward model; give the final/ folder of a run of"
            " --task prm or --task rm"
        )
    shapes = _shapes(folder / HEAD_WEIGHTS)
    facts = _object(folder / HEAD_CONFIG)
    kind = facts.get("kind", STEPS)
    if kind not in (STEPS, PREFERENCES):
        raise ValueError(f"{folder / HEAD_CONFIG}: kind is {kind!r:.40}, but must be {STEPS} or {PREFERENCES}")
    shape = shapes.get("weight", [])
    if len(shape) != 2 or (kind == STEPS and shape[0] != 1):
        raise ValueError(f"{folder / HEAD_WEIGHTS}: its weight has the shape {shape}, but a head of {kind} has [1, width]")
    model = _object(folder / "config.json")
    text: Any = model.get("text_config") or model
    width = text.get("hidden_size") if isinstance(text, dict) else None
    if isinstance(width, int) and width != shape[1]:
        raise ValueError(
            f"{folder}: the value head takes {shape[1]} numbers, the model beside it gives {width}; it is another's"
        )
    mean, std = (facts.get(name) for name in ("mean", "std"))
    known = all(isinstance(one, int | float) for one in (mean, std))
    scale = (float(mean), float(std)) if known else (None, None)  # type: ignore[arg-type]
    return HeadFacts(kind, shape[1], shape[0], "gate.weight" in shapes, *scale)


def _shapes(path: Path) -> dict[str, list[int]]:
    """The shapes in a safetensors file, by its header."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
            return {name: list(one["shape"]) for name, one in header.items() if name != "__metadata__"}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value
