"""What a run shows while it trains (a live table on a terminal, one plain line a step elsewhere), and every completion on disk
with its scores and why."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from vlrl.data.files import write_json_lines

N_SHOWN = 12
"""Rows of the live table: the latest ones."""


OF_COMPLETIONS = ("gold", "kept")
"""What a run may note of each completion beside its rewards: its gold (`--gold`; null: none), and whether it is trained on
(`--keep_completions`)."""


def write_completions(path: Path, step: int, logs: Mapping[str, Any]) -> None:
    """The latest generation batch as TRL keeps it, one completion a line, groups adjacent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = logs["extra"]
    rows = []
    for i, completion in enumerate(logs["completion"]):
        row: dict[str, Any] = {"step": step, "id": extra["id"][i], "prompt": shown_text(logs["prompt"][i])}
        row["completion"] = shown_text(completion)
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
        for name in OF_COMPLETIONS:
            if name in extra and len(extra[name]) == len(logs["completion"]):
                row[name] = extra[name][i]
        rows.append(row)
    write_json_lines(path, rows)


def shown_text(value: Any) -> str:
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


@dataclass(frozen=True)
class Column:
    """One number of a logged step: what it is called in a line and at the head of the table, and how it reads."""

    line: str
    head: str
    text: Callable[[Mapping[str, Any]], str | None]
    """None where a step has no such number; in lines it is left out then."""


def metric_column(line: str, head: str, key: str, form: str = ".3f") -> Column:
    """A column of the metric `key`."""

    def text(row: Mapping[str, Any]) -> str | None:
        return None if row.get(key) is None else format(row[key], form)

    return Column(line, head, text)


def grpo_columns(rewards: Sequence[str]) -> tuple[Column, ...]:
    """The reward with its spread over a batch, each reward by itself, and what warns of trouble: groups that teach nothing,
    completions that were cut off, rows that an endpoint has given nothing so far."""
    return (
        metric_column("reward", "reward", "reward"),
        metric_column("std", "std", "reward_std"),
        *(metric_column(name, name.replace("_", " "), f"rewards/{name}/mean") for name in rewards),
        metric_column("zero-variance groups", "zero var", "frac_reward_zero_std"),
        metric_column("replaced", "replaced", "dynamic_sampling/replaced", "g"),
        metric_column("length", "tokens", "completions/mean_length", ".1f"),
        metric_column("truncated", "trunc.", "completions/clipped_ratio"),
        metric_column("judge failed", "judge failed", "judge/failed", "g"),
        metric_column("corrector failed", "corr. failed", "corrector/failed", "g"),
    )


VALUE_COLUMNS = (metric_column("loss", "loss", "loss", ".4f"),)
SFT_COLUMNS = (*VALUE_COLUMNS, metric_column("token accuracy", "token accuracy", "mean_token_accuracy"))


class StepLog:
    """Logged steps for people, on the first process: `with StepLog("step", columns) as log: log.show(row, n_steps)`.

    `row` holds a trainer's metrics and `step`. Nothing is shown before the first row, and a run without terminal gets one plain
    line a row.
    """

    def __init__(self, name: str, columns: Sequence[Column], console: Console | None = None) -> None:
        self.name, self.columns = name, tuple(columns)
        self._console = console
        self._rows: deque[Mapping[str, Any]] = deque(maxlen=N_SHOWN)
        self._live: Live | None = None

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, row: Mapping[str, Any], n_steps: int, eta_s: float | None = None) -> None:
        console = self._console or Console(file=sys.stdout)
        if not console.is_terminal:
            console.file.write(self.line(row, n_steps, eta_s) + "\n")
            console.file.flush()
            return
        self._rows.append(row)
        table = self.table(n_steps, eta_s)
        if self._live is None:
            self._live = Live(table, console=console, auto_refresh=False)
            self._live.start()
        self._live.update(table, refresh=True)

    def say(self, text: str) -> None:
        """A line by itself; a live table stays below it."""
        console = self._console or (Console(file=sys.stdout) if self._live is None else self._live.console)
        if self._live is None:
            console.file.write(text + "\n")
            console.file.flush()
        else:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    def line(self, row: Mapping[str, Any], n_steps: int, eta_s: float | None = None) -> str:
        """`step 3/80  reward 0.412 ±0.201  ...  1.9 s  ETA 2:30`."""
        texts = [(column.line, column.text(row)) for column in self.columns]
        parts = [f"{self.name} {row['step']}/{n_steps}", *(f"{name} {text}" for name, text in texts if text is not None)]
        if row.get("step_time") is not None:
            parts.append(f"{row['step_time']:.1f} s")
        if eta_s is not None:
            parts.append(f"ETA {_clock(eta_s)}")
        return "  ".join(parts)

    def table(self, n_steps: int, eta_s: float | None = None) -> Table:
        """The latest rows; a column appears once a row has it."""
        left = "" if eta_s is None else f", about {_clock(eta_s)} left"
        latest = self._rows[-1]["step"]
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left")
        table.caption = f"{self.name} {latest} of {n_steps}{left}"
        shown = [column for column in self.columns if any(column.text(row) is not None for row in self._rows)]
        timed = any(row.get("step_time") is not None for row in self._rows)
        for head in (self.name, *(column.head for column in shown), *(["s"] if timed else [])):
            table.add_column(head, justify="right")
        for row in self._rows:
            cells = [column.text(row) or "-" for column in shown]
            seconds = [f"{row['step_time']:.1f}" if row.get("step_time") is not None else "-"] if timed else []
            table.add_row(str(row["step"]), *cells, *seconds)
        return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
