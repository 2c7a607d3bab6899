"""Columns of other projects' rows: under the names that a user gives, with the names behind numbers, and a row's group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vlrl.data.row_families import Cells, decoded, first_text
from vlrl.data.row_labels import Names
from vlrl.data.row_source import BadRow


def group_of(row: Cells) -> dict[str, Any]:
    """`meta.group` of a row, which links rows that show the same thing; it may be a column too."""
    meta = decoded(row.get("meta"))
    group = row.get("group")
    if group in (None, "") and isinstance(meta, Mapping):
        group = meta.get("group")
    if group in (None, ""):
        return {}
    return {"group": group if isinstance(group, str) else json.dumps(group, default=str)}


KEPT = ("id", "group", "meta")
"""Columns that are read under their own names, whatever the user names."""
OPTIONAL = ("image", "images", "choices", "hint", "id", "group")
"""Of the columns that a user names, those that some rows may lack."""


def renamed(row: Cells, columns: Mapping[str, str], *, is_first: bool) -> dict[str, Any]:
    """A row with our names of columns; a dot goes into an object, `extra_info.answer`. Raises BadRow where a column is not
    there: any column in the first row, later those that are needed."""
    found: dict[str, Any] = {}
    for ours, theirs in columns.items():
        value: Any = row
        if theirs in row:
            value = row[theirs]
        else:
            for part in theirs.split("."):
                value = decoded(value)
                if isinstance(value, Mapping) and part in value:
                    value = value[part]
                elif is_first or ours not in OPTIONAL:
                    raise BadRow(f"there is no column {theirs!r} (columns: {', '.join(map(str, row))})")
                else:
                    value = None
                    break
        found[ours] = value
    return {key: row[key] for key in KEPT if key in row} | found


def with_names(row: Cells, names: Names) -> Cells:
    """A row with the names behind its numbers, where the data set states them."""
    stated = {key: row[key] for key in names if isinstance(row.get(key), int) and not isinstance(row[key], bool)}
    named = {key: names[key][value] for key, value in stated.items() if 0 <= value < len(names[key])}
    return {**row, **named} if named else row


def brings_system(row: Cells) -> bool:
    if first_text(row, ("system",)) is not None:
        return True
    for column in ("messages", "conversations", "prompt"):
        turns = row.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return turns[0].get("role", turns[0].get("from")) == "system"
    return False
