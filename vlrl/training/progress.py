"""What a run tells while it trains: one readable line a step, and every completion on disk with its scores and why."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_completions(path: Path, step: int, logs: Mapping[str, Any]) -> None:
    """The latest generation batch as TRL keeps it, one completion a line, groups adjacent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = logs["extra"]
    with path.open("w", encoding="utf-8") as file:
        for i, completion in enumerate(logs["completion"]):
            row: dict[str, Any] = {"step": step, "id": extra["id"][i], "prompt": text_of(logs["prompt"][i])}
            row["completion"] = text_of(completion)
            row["n_tokens"], row["truncated"] = extra["n_tokens"][i], extra["truncated"][i]
            row["rewards"] = {
                name: {
                    "value": values[i] if math.isfinite(values[i]) else None,
                    "answer": extra[f"{name}/answer"][i] if f"{name}/answer" in extra else None,
                    "why": extra[f"{name}/why"][i] if f"{name}/why" in extra else None,
                }
                for name, values in logs["rewards"].items()
            }
            row["advantage"] = logs["advantages"][i]
            file.write(json.dumps(row, ensure_ascii=True) + "\n")


def text_of(value: Any) -> str:
    """The text of a message list (images as `[image]`), or the string itself."""
    if isinstance(value, str):
        return value
    parts: list[str] = []
    for message in value:
        content = message["content"]
        if isinstance(content, str):
            parts.append(content)
        else:
            parts += ["[image]" if part["type"] == "image" else part.get("text", "") for part in content]
    return "".join(parts)


def step_line(row: Mapping[str, Any], rewards: Sequence[str], n_steps: int, eta_s: float) -> str:
    """A logged step in one line; `row` holds TRL's metrics and `step`, `rewards` the names whose means are shown."""
    parts = [f"{name} {_number(row.get(f'rewards/{name}/mean'))}" for name in rewards]
    redrawn = row.get("dynamic_sampling/replaced")
    return (
        f"step {row['step']}/{n_steps}  reward {_number(row.get('reward'))}"
        f" ±{_number(row.get('reward_std'))}  {'  '.join(parts)}"
        f"  zero-std {_number(row.get('frac_reward_zero_std'))}"
        + (f"  redrawn {redrawn:g}" if redrawn is not None else "")
        + f"  len {row.get('completions/mean_length') or 0:.1f}"
        f"  cut {_number(row.get('completions/clipped_ratio'))}"
        f"  {row.get('step_time') or 0.0:.1f} s  ETA {_clock(eta_s)}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
