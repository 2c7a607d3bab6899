"""Model names: the embedded models, where their files are, and what is wrong with a name before anything is loaded.

Imports neither torch nor transformers, so that flags can be checked at once. Not here: loading (`vlrl.models.load`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlrl.data.name_values import nearest

ASSETS = Path(__file__).resolve().parent / "assets"
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
        return None if (path / "config.json").is_file() else f"{name} {_why_no_model(path)}"
    if path.exists():
        return f"{name} is a file; give the folder of a model"
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return None
    what = "such folder" if "/" in name else f"embedded model or folder {name!r}"
    known = f"embedded models: {', '.join(TINY_NAMES)}; or a folder, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct"
    return f"{name}: there is no {what}{nearest(name, TINY_NAMES)} ({known})"


def _why_no_model(folder: Path) -> str:
    """Why a folder without config.json is no model, and which one near it is."""
    if (folder / "adapter_config.json").is_file():
        return "holds adapters alone, without the model; give the folder final/ of the run, which has both"
    inside = next((one for one in ("final", "start") if (folder / one / "config.json").is_file()), None)
    hint = f"; did you mean {folder / inside}?" if inside else ""
    return f"is a folder without config.json, so it holds no model{hint}"
