"""The files of a CLIP model: what they say, checked without loading a weight, and how long a text is for it. No torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vlrl.data.special_tokens import token_pattern

_CONFIG, _TOKENIZER, _WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_MODEL_TYPE = "clip"
_USUAL_TEXT_TOKENS = 77
"""Of a text with its first and last token, where a configuration does not say."""


@dataclass(frozen=True)
class ClipFacts:
    """`n_text_tokens`: of the longest text that it reads, first and last token included. `weight_files`: by name."""

    n_text_tokens: int
    weight_files: tuple[str, ...]


def read_clip(folder: Path) -> ClipFacts:
    """What a folder of a CLIP model is. Raises ValueError in one line where it is none, or where a file of it is missing."""
    wanted = "give the folder of a CLIP model as CLIPModel.save_pretrained and its processor write it"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {wanted}")
    config = _object(folder / _CONFIG, wanted)
    kind = config.get("model_type")
    if kind != _MODEL_TYPE:
        raise ValueError(f"{folder}: its model_type is {kind!r:.40}, and {_MODEL_TYPE!r} alone is read; {wanted}")
    index = folder / _INDEX
    weights: set[Any] = {_WEIGHTS}
    if index.is_file():
        weights = set(dict(_object(index, wanted).get("weight_map") or {}).values())
    for name in (*sorted(map(str, weights)), _TOKENIZER):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: holds no {name}; {wanted}")
    if not any((folder / name).is_file() for name in _PROCESSORS):
        raise ValueError(f"{folder}: holds no {' and no '.join(_PROCESSORS)}; {wanted}")
    text: Any = config.get("text_config") or {}
    length = text.get("max_position_embeddings", _USUAL_TEXT_TOKENS) if isinstance(text, dict) else None
    if isinstance(length, bool) or not isinstance(length, int) or length < 3:
        raise ValueError(f"{folder / _CONFIG}: max_position_embeddings is {length!r:.40}; it must be a whole number from 3")
    _tokenizer(folder / _TOKENIZER)
    return ClipFacts(length, tuple(sorted(map(str, weights))))


def text_problem(folder: Path, text: str) -> str | None:
    """Why a CLIP model cannot read a text whole, or None."""
    if not text.strip():
        return "it is empty"
    place = folder.resolve()
    written = _special_tokens(place).search(text.lower())
    if written is not None:
        return f"it spells out {written[0]}, a special token of {folder}"
    most, n = _read_once(place).n_text_tokens, _n_tokens(place, text)
    return f"it has {n} tokens and {folder} reads {most}" if n > most else None


@lru_cache(maxsize=16)
def _read_once(folder: Path) -> ClipFacts:
    return read_clip(folder)


@lru_cache(maxsize=16)
def _special_tokens(folder: Path) -> re.Pattern[str]:
    """Tokens that stand for no words, such as `<|endoftext|>`, in lower case as the tokenizer reads text."""
    known = _tokenizer(folder / _TOKENIZER).get_added_tokens_decoder().values()
    return token_pattern(token.content.lower() for token in known if token.special)


@lru_cache(maxsize=65_536)
def _n_tokens(folder: Path, text: str) -> int:
    return len(_tokenizer(folder / _TOKENIZER).encode(text).ids)


@lru_cache(maxsize=16)
def _tokenizer(path: Path) -> Tokenizer:
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # the library raises plain ones
            raise
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split()):.200}") from error
    found.no_truncation()
    found.no_padding()
    return found


def _object(path: Path, wanted: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: holds no {path.name}, so it is no CLIP model; {wanted}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object")
    return value
