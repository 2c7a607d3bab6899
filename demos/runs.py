"""Run folders as the page shows them: found below one folder alone, read while they are still being written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

CURVES = (
    ("reward", ("reward", "rewards/*/mean")),
    ("spread within groups", ("reward_std", "frac_reward_zero_std")),
    ("completion length (tokens)", ("completions/mean_length",)),
    (
        "thoughts",
        ("thoughts/self_bleu2", "thoughts/sensitivity", "thoughts/valid", "thoughts/recognised", "thoughts/corrected"),
    ),
)
MAX_ROWS = 400


@dataclass(frozen=True)
class Runs:
    """The runs below `root`; nothing outside it is read, links included."""

    root: Path

    def names(self) -> list[str]:
        """Newest first. A run is a folder with a `config.yaml`."""
        root = self.root.resolve()
        if not root.is_dir():
            return []
        found = [path.parent for path in (*root.glob("*/config.yaml"), *root.glob("*/*/config.yaml"))]
        inside = [folder for folder in found if folder.resolve().is_relative_to(root)]
        return [str(folder.relative_to(root)) for folder in sorted(inside, key=lambda f: -f.stat().st_mtime)]

    def folder(self, name: str) -> Path:
        """Raises ValueError for anything that is not one of `names`."""
        if name not in self.names():
            raise ValueError(f"there is no run {name!r} below {self.root}")
        return self.root / name

    def models(self) -> list[str]:
        """Folders of trained models."""
        return [str(self.root / name / "final") for name in self.names() if (self.root / name / "final").is_dir()]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a line that is still being written is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def summary(folder: Path) -> dict[str, Any] | None:
    path = folder / "summary.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def status(folder: Path) -> str:
    """One line: what the run is, how far it is."""
    rows, found = read_lines(folder / "metrics.jsonl"), summary(folder)
    step = max((int(row.get("step", 0)) for row in rows), default=0)
    if found is None:
        return f"running or stopped, last logged step {step}"
    return f"{found.get('task')} · {found.get('model')} · {found.get('stage')} · seed {found.get('seed')} · {step} steps"


def comparison(folders: dict[str, Path]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of metrics before and after, for one run or two."""
    names = list(folders)
    found = {name: summary(folder) for name, folder in folders.items()}
    metrics = list(dict.fromkeys(m for one in found.values() if one for m in one.get("after", {}) if "[" not in m))
    head = ["metric", *(f"{when} · {name}" if len(names) > 1 else when for name in names for when in ("before", "after"))]
    rows = []
    for metric in metrics:
        cells = [_cell((found[name] or {}).get(when, {}).get(metric)) for name in names for when in ("before", "after")]
        rows.append([metric, *cells])
    return head, rows


def _cell(metric: dict[str, Any] | None) -> str:
    if not metric or metric.get("value") is None:
        return "–"
    low_high = metric.get("ci95")
    return f"{metric['value']:.3f}" + (f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else "")


def curves(folders: dict[str, Path]) -> Figure | None:
    """What a run (or two, the second dashed) has logged so far."""
    logs = {name: [row for row in read_lines(folder / "metrics.jsonl") if "reward" in row] for name, folder in folders.items()}
    logs = {name: rows for name, rows in logs.items() if rows}
    if not logs:
        return None
    panels = [(title, keys) for title, keys in CURVES if any(_keys(rows, keys) for rows in logs.values())]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.2), constrained_layout=True, squeeze=False)
    for axis, (title, patterns) in zip(axes[0], panels, strict=True):
        for number, rows in enumerate(logs.values()):
            for colour, key in enumerate(_keys(rows, patterns)):
                known = [row for row in rows if isinstance(row.get(key), int | float)]
                label = key.removeprefix("rewards/").removeprefix("thoughts/").removesuffix("/mean").replace("_", " ")
                axis.plot(
                    [row["step"] for row in known], [row[key] for row in known], color=f"C{colour}",
                    linestyle="-" if number == 0 else "--", label=label if number == 0 else None,
                )  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    plt.close(figure)
    return figure


def _keys(rows: list[dict[str, Any]], patterns: tuple[str, ...]) -> list[str]:
    known = sorted({key for row in rows for key in row})
    found = []
    for pattern in patterns:
        start, star, end = pattern.partition("*")
        found += [key for key in known if (key.startswith(start) and key.endswith(end)) if star or key == pattern]
    return found


HELD_OUT = "held-out samples, before and after"
FILTERS = ("all", "lowest reward", "highest advantage", "largest change", "unparsed", "truncated")
Table = tuple[list[str], list[list[str]]]


def logged(folder: Path) -> list[str]:
    """The sets of completions that a run holds: the held-out samples once it is over, then the steps, the latest first."""
    steps = sorted((int(path.stem.split("_")[1]) for path in (folder / "completions").glob("step_*.jsonl")), reverse=True)
    return [*([HELD_OUT] if (folder / "held_out.jsonl").is_file() else []), *(f"step {step}" for step in steps)]


def answers(folder: Path, which: str, chosen: str) -> Table:
    """Headings and rows of the answers of one of `logged`, filtered or ordered by one of `FILTERS`. "largest change": of a
    held-out sample, between before and after; of a step's completion, the advantage, whatever its sign. Raises OtherVersion."""
    return held_out(folder, chosen) if which == HELD_OUT else completions(folder, int(which.split()[-1]), chosen)


class OtherVersion(ValueError):
    """A run folder whose rows this version cannot show; the message says why."""


HELD_OUT_KEYS = frozenset({"id", "question", "ground_truth", "before", "after", "change"})


def held_out(folder: Path, chosen: str) -> Table:
    """Raises OtherVersion."""
    rows = read_lines(folder / "held_out.jsonl")
    missing = [key for key in sorted(HELD_OUT_KEYS) if any(key not in row for row in rows)]
    if missing:
        raise OtherVersion(
            f"held_out.jsonl was written by another version of vlrl (its rows have no {', '.join(missing)}); score it again:"
            f" vlrl bench score --predictions {folder.name}/predictions_after.jsonl --task ... --output_path ..."
        )
    if chosen == "lowest reward":
        rows = sorted(rows, key=lambda row: _or(row["after"]["value"], 2.0))
    elif chosen == "largest change":
        rows = sorted(rows, key=lambda row: -abs(_or(row["change"], 0.0)))
    elif chosen == "unparsed":
        rows = [row for row in rows if "unparsed" in (row["before"]["outcome"], row["after"]["outcome"])]
    elif chosen == "truncated":
        cut = {row["id"] for row in read_lines(folder / "predictions_after.jsonl") if row.get("truncated")}
        rows = [row for row in rows if row["id"] in cut]
    table = [
        [
            str(row["id"]),
            str(row["question"]),
            str(row["ground_truth"]),
            *(f"{_number(row[side]['value'])}  {row[side]['answer']}" for side in ("before", "after")),
            _number(row["change"], "+.2f"),
        ]
        for row in rows[:MAX_ROWS]
    ]
    return ["sample", "question", "ground truth", "before", "after", "change"], table


def completions(folder: Path, step: int, chosen: str) -> Table:
    rows = read_lines(folder / "completions" / f"step_{step:06d}.jsonl")
    if chosen == "lowest reward":
        rows = sorted(rows, key=_reward)
    elif chosen == "highest advantage":
        rows = sorted(rows, key=lambda row: -_or(row.get("advantage"), 0.0))
    elif chosen == "largest change":
        rows = sorted(rows, key=lambda row: -abs(_or(row.get("advantage"), 0.0)))
    elif chosen == "unparsed":
        rows = [row for row in rows if any(one.get("answer") in (None, "null") for one in row.get("rewards", {}).values())]
    elif chosen == "truncated":
        rows = [row for row in rows if row.get("truncated")]
    table = []
    for row in rows[:MAX_ROWS]:
        rewards = row.get("rewards", {})
        values = ", ".join(f"{name} {_number(r['value'], '.3g')}" for name, r in rewards.items())
        reasons = "; ".join(str(r["why"]) for r in rewards.values() if r.get("why"))
        advantage = _number(row.get("advantage"), "+.2f")
        table.append([str(row.get("id", "")), values, advantage, str(row.get("completion", "")), reasons])
    return ["sample", "rewards", "advantage", "completion", "why"], table


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def _reward(row: dict[str, Any]) -> float:
    values = [one["value"] for one in row.get("rewards", {}).values() if one.get("value") is not None]
    return float(sum(values))
