"""What a run's model answered: the held-out samples before and after training, and the completions of each training step, as
tables, and the events of a run. Each row keeps its place in its file, so that it can be opened (`demos.run_sample`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demos.runs import MAX_ROWS, file_of, read_lines, step_files
from vlrl.training.run_status import finite

EVENT_COLUMNS = ("step", "event", "message", "samples", "what_to_try")


def events(folders: dict[str, Path]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of what went wrong in one run or two, as they say it of themselves (`events.jsonl`)."""
    several = len(folders) > 1
    rows = []
    for name, folder in folders.items():
        for row in read_lines(file_of(folder, "events.jsonl"))[:MAX_ROWS]:
            values = [row.get(key) for key in EVENT_COLUMNS]
            cells = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]
            rows.append([*([name] if several else []), str(row.get("stage")), *cells])
    return [*(["run"] if several else []), "stage", "step", "event", "what was seen", "samples", "what to try"], rows


HELD_OUT = "held-out samples, before and after"
FILTERS = ("all", "lowest reward", "highest advantage", "largest change", "unparsed", "truncated")
Table = tuple[list[str], list[list[str]]]
Row = dict[str, Any]


def logged(folder: Path) -> list[str]:
    """The sets of completions that a run holds: the held-out samples once it is over, then the steps, the latest first."""
    return [*([HELD_OUT] if file_of(folder, "held_out.jsonl") else []), *step_files(folder)]


def answers(folder: Path, which: str, chosen: str) -> Table:
    """Headings and rows of `chosen_rows`. Raises OtherVersion."""
    rows = [row for _, row in chosen_rows(folder, which, chosen)]
    return held_out_table(rows) if which == HELD_OUT else completions_table(rows)


def chosen_rows(folder: Path, which: str, chosen: str) -> list[tuple[int, Row]]:
    """The answers of one of `logged`, filtered or ordered by one of `FILTERS`, each with its place in its file; none for any
    other. "largest change": of a held-out sample, between before and after; of a step's completion, the advantage, whatever its
    sign. Raises OtherVersion."""
    rows = list(enumerate(all_rows(folder, which)))
    return (_held_out(folder, rows, chosen) if which == HELD_OUT else _completions(rows, chosen))[:MAX_ROWS]


def all_rows(folder: Path, which: str) -> list[Row]:
    """The answers of one of `logged` in the order of their file. Raises OtherVersion."""
    if which != HELD_OUT:
        name = step_files(folder).get(which)
        return read_lines(file_of(folder, "completions", name)) if name else []
    rows = read_lines(file_of(folder, "held_out.jsonl"))
    missing = [key for key in sorted(HELD_OUT_KEYS) if any(key not in row for row in rows)]
    if missing:
        raise OtherVersion(
            f"held_out.jsonl was written by another version of vlrl (its rows have no {', '.join(missing)}); score it again:"
            f" vlrl bench score --predictions {folder.name}/predictions_after.jsonl --task ... --output_path ..."
        )
    return rows


class OtherVersion(ValueError):
    """A run folder whose rows this version cannot show; the message says why."""


HELD_OUT_KEYS = frozenset({"id", "question", "ground_truth", "before", "after", "change"})


def _held_out(folder: Path, rows: list[tuple[int, Row]], chosen: str) -> list[tuple[int, Row]]:
    if chosen == "lowest reward":
        return sorted(rows, key=lambda one: number_or(as_object(one[1]["after"]).get("value"), 2.0))
    if chosen == "largest change":
        return sorted(rows, key=lambda one: -abs(number_or(one[1]["change"], 0.0)))
    if chosen == "unparsed":
        return [one for one in rows if "unparsed" in [as_object(one[1][side]).get("outcome") for side in ("before", "after")]]
    if chosen == "truncated":
        cut = [row.get("id") for row in read_lines(file_of(folder, "predictions_after.jsonl")) if row.get("truncated")]
        names = set(map(str, cut))
        return [one for one in rows if str(one[1]["id"]) in names]
    return rows


def held_out_table(rows: Sequence[Row]) -> Table:
    table = [
        [
            str(row["id"]),
            str(row["question"]),
            str(row["ground_truth"]),
            *(
                f"{in_words(as_object(row[side]).get('value'))}  {as_object(row[side]).get('answer', '')}"
                for side in ("before", "after")
            ),
            in_words(row["change"], "+.2f"),
        ]
        for row in rows
    ]
    return ["sample", "question", "ground truth", "before", "after", "change"], table


def _completions(rows: list[tuple[int, Row]], chosen: str) -> list[tuple[int, Row]]:
    if chosen == "lowest reward":
        return sorted(rows, key=lambda one: _reward(one[1]))
    if chosen == "highest advantage":
        return sorted(rows, key=lambda one: -number_or(one[1].get("advantage"), 0.0))
    if chosen == "largest change":
        return sorted(rows, key=lambda one: -abs(number_or(one[1].get("advantage"), 0.0)))
    if chosen == "unparsed":
        return [one for one in rows if any(score.get("answer") in (None, "null") for score in scores_in(one[1]).values())]
    if chosen == "truncated":
        return [one for one in rows if one[1].get("truncated")]
    return rows


def completions_table(rows: Sequence[Row]) -> Table:
    table = []
    for row in rows:
        values = ", ".join(f"{name} {in_words(one.get('value'), '.3g')}" for name, one in scores_in(row).items())
        reasons = "; ".join(str(one["why"]) for one in scores_in(row).values() if one.get("why"))
        advantage = in_words(row.get("advantage"), "+.2f")
        table.append([str(row.get("id", "")), values, advantage, str(row.get("completion", "")), reasons])
    return ["sample", "rewards", "advantage", "completion", "why"], table


def in_words(value: Any, form: str = ".2f") -> str:
    """A number in a form, anything else as it stands, "–" for None."""
    known = finite(value)
    return format(known, form) if known is not None else "–" if value is None else str(value)


def as_object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def scores_in(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Of each reward its value, answer and reason."""
    return {str(name): as_object(one) for name, one in as_object(row.get("rewards")).items()}


def number_or(value: Any, other: float) -> float:
    known = finite(value)
    return other if known is None else known


def _reward(row: dict[str, Any]) -> float:
    return sum(number_or(one.get("value"), 0.0) for one in scores_in(row).values())
