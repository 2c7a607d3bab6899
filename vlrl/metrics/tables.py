"""Tables of text, laid out by rich: for the console, for log files and as Markdown."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool = False) -> str:
    """A table with one line a row, never folded or cut, without colours. `markdown`: with `|` between the cells."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown, show_edge=markdown)
    for name in header:
        table.add_column(Text(name), no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    written = io.StringIO()
    Console(file=written, width=100_000, color_system=None, legacy_windows=False).print(table, soft_wrap=True)
    return "\n".join(line.rstrip() for line in written.getvalue().split("\n")).strip("\n")
