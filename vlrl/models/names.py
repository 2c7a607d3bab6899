"""Model names: the embedded models, where their files are, and what is wrong with a name before anything is loaded.

Imports neither torch nor transformers, so that flags can be checked at once. Not here: loading (`vlrl.models.load`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vlrl.data.name_values import nearest

ASSETS = Path(__file__).resolve().parent / "assets"
ADAPTER_CONFIG = "adapter_config.json"
RANDOM_SUFFIX = "-random"
"""Of the name of an embedded model with random weights: `tiny-random` is `tiny` before it learnt anything."""


class ModelError(ValueError):
    """A model that cannot be used; the message says why and what would work."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A small model that comes with the package. `max_pixels`: area of the largest image that it sees."""

    name: str
    max_pixels: int

    @property
    def assets(self) -> Path:
        """Its folder: weights of the shipped cold start, tokenizer, processor, and `recipe.json` (how it was trained)."""
        return ASSETS / self.name


EMBEDDED = {model.name: model for model in (EmbeddedModel("tiny", 112 * 112), EmbeddedModel("tiny-cards", 168 * 168))}
TINY_NAMES = tuple(name + suffix for name in EMBEDDED for suffix in ("", RANDOM_SUFFIX))
"""What `--model_name_or_path` takes for embedded models: the shipped cold starts, and the same models untrained."""


def embedded_model(name: str) -> EmbeddedModel:
    """The embedded model of one of `TINY_NAMES`, whatever its weights. Raises KeyError for other names."""
    return EMBEDDED[name.removesuffix(RANDOM_SUFFIX)]


def model_name_problem(name: str) -> str | None:
    """Why `name` can be neither an embedded model, nor a folder with a model, nor a hub id `owner/name`; None if it can be.

    Looks at the name and the disk only: a hub id may still not exist.
    """
    if name in TINY_NAMES:
        return None
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file():
            return None
        if is_adapter_folder(name):
            return _adapter_problem(name)
        return f"{name} {_why_no_model(path)}"
    if path.exists():
        return f"{name} is a file; give the folder of a model"
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return None
    what = "such folder" if "/" in name else f"embedded model or folder {name!r}"
    known = f"embedded models: {', '.join(TINY_NAMES)}; or a folder, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct"
    return f"{name}: there is no {what}{nearest(name, TINY_NAMES)} ({known})"


def _why_no_model(folder: Path) -> str:
    """Why a folder without config.json is no model, and which one near it is."""
    inside = next((one for one in ("final", "start") if (folder / one / "config.json").is_file()), None)
    hint = f"; did you mean {folder / inside}?" if inside else ""
    return f"is a folder without config.json, so it holds no model{hint}"


# ---- folders of adapters (a checkpoint of a run with --use_peft, or its adapter/)


def is_adapter_folder(name: str) -> bool:
    """Whether `name` is a folder of adapters, without the model that they belong to."""
    folder = Path(name).expanduser()
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def adapter_base(name: str) -> str:
    """The model that the adapters in a folder belong to: the folder or hub id that its adapter_config.json names. A folder that
    is not where it was is looked for in the run (`start/`). Raises ModelError where none is named."""
    folder = Path(name).expanduser()
    try:
        held = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG} is damaged: {error}") from error
    base = held.get("base_model_name_or_path") if isinstance(held, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{name} holds adapters alone, and its {ADAPTER_CONFIG} names no base_model_name_or_path; give the folder final/ of"
            " the run, which has both"
        )
    if base in TINY_NAMES or Path(base).expanduser().is_dir():
        return base
    near = [parent / "start" for parent in list(folder.resolve().parents)[:2]]
    return next((str(one) for one in near if (one / "config.json").is_file()), base)


def _adapter_problem(name: str) -> str | None:
    """Why adapters in a folder cannot be used, or None."""
    try:
        base = adapter_base(name)
    except ModelError as error:
        return str(error)
    if is_adapter_folder(base):
        return f"{name} holds adapters of {base}, which holds adapters too; merge that one first (vlrl merge)"
    problem = model_name_problem(base)
    return None if problem is None else f"{name} holds adapters alone, of a model that cannot be used: {problem}"
