"""The files of a saved value head, beside those of the model. No torch."""

from __future__ import annotations

from pathlib import Path

HEAD_WEIGHTS, HEAD_CONFIG = "value_head.safetensors", "value_head.json"


def has_head(folder: str | Path) -> bool:
    """Whether a folder holds a process reward model."""
    return (Path(folder) / HEAD_WEIGHTS).is_file()
