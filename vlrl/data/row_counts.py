"""What was seen while rows of other projects were read: counts by kind, the first bad ones, and the notes made of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vlrl.data.row_questions import LONG_ANSWER_CHARS
from vlrl.data.row_source import FEW

N_EXAMPLES = 3
"""Bad rows that a refusal shows."""


@dataclass
class Found:
    """What was seen while the rows of files were read. `n_rows`: all rows, those among them that are no rows at all too;
    `n_bad`: rows of which something cannot be used, however many of their questions. `noted`: how words were understood, by
    kind; `said`: notes of the files themselves."""

    n_rows: int = 0
    n_bad: int = 0
    n_clipped: int = 0
    n_long: int = 0
    n_system: int = 0
    noted: Counter[str] = field(default_factory=Counter)
    families: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    _last_bad: int = 0

    def is_first_of_row(self) -> bool:
        """Whether the row that is read now has had no problem before this call."""
        is_first = self._last_bad != self.n_rows
        self._last_bad = self.n_rows
        return is_first

    def note_unread(self, where: str, problem: str) -> None:
        """What stands in the place of a row and is none."""
        self.n_rows += 1
        self.note_bad(where, problem)

    def note_bad(self, where: str, problem: str) -> None:
        if not self.is_first_of_row():
            return
        self.n_bad += 1
        if len(self.bad) < N_EXAMPLES:
            self.bad.append(f"{where}: {problem}")

    def notes(self) -> list[str]:
        """What a person should know of a set that is used, in a few lines."""
        lines = list(self.said)
        if self.n_bad:
            first = "; ".join(self.bad)
            lines.append(f"{self.n_bad:,} of {self.n_rows:,} rows cannot be used and are left out; the first: {first}")
        lines += [f"{n:,} left out: {kind}" for kind, n in self.left_out.most_common()]
        lines += [f"{n:,} {kind}" for kind, n in self.noted.most_common()]
        if self.n_clipped:
            lines.append(f"{self.n_clipped:,} boxes were cut at the edge of their image")
        if self.n_long:
            lines.append(
                f"{self.n_long:,} answers have more than {LONG_ANSWER_CHARS} characters: few completions repeat so long a text"
                " word for word (--rewards llm_judge or fuzzy_match grades them)"
            )
        if self.n_system:
            lines.append(f"{self.n_system:,} rows bring a system message, which is left out (--system_prompt sets one for all)")
        return lines


def too_many_bad(found: Found) -> bool:
    """Whether more rows cannot be used than a few."""
    return found.n_bad > FEW * max(found.n_rows, 1)
