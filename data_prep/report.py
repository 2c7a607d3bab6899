"""What a converter found wrong in its source: said once a kind, counted, and too much of it is an error.

The first three findings of a kind are printed with their places as they are found; `summary` prints how many more
there were. A few annotations that cannot be read are left out and counted. More than `max_skipped` of them (a share)
mean that the source is read wrongly: `too_many` says so, and the converter writes nothing."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

MAX_SKIPPED = 0.03
"""The share of annotations that may be left out, unless `--max_skipped` says otherwise."""
N_SHOWN = 3
"""Findings of a kind that are printed with their places."""
MAX_KINDS = 20
"""Kinds that are told apart where they are derived from the wording; further ones are counted as one."""

_VALUES = re.compile(r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\{[^}]*\}|\S*/\S*|[-+]?\d[\d.,x]*""")


@dataclass
class Findings:
    """All findings of one kind: how many, of what, and the first few with their places."""

    verb: str
    n: int = 0
    first: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Prints what is wrong on standard error, one kind at a time, and counts it. With `strict` the first finding ends
    the program with exit code 1. `counts` may hold a converter's own counts too. `totals`: how many annotations,
    images or rows there are, as the converter adds them with `total`."""

    strict: bool
    max_skipped: float = MAX_SKIPPED
    counts: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Findings] = field(default_factory=dict)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Report:
        """The report that the options of `data_prep.writing.add_output_options` ask for."""
        return cls(args.strict, args.max_skipped)

    def total(self, what: str, n: int = 1) -> None:
        """`n` more "annotations", "images" or "rows" are read; those that could not be read at all are counted by
        `bad`. Only what has a total here can be found too often bad."""
        self.totals[what] += n

    def each(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """`items` one by one, each counted as `what`. An item with which something is left out, before the next is asked for,
        is lost, once. For sources whose items are no boxes of an image: those are counted where they are checked."""
        for item in items:
            before = self.counts["skipped"] + self.counts["tiny"]
            yield item
            self.totals[what] += 1
            self.lost[what] += self.counts["skipped"] + self.counts["tiny"] > before

    def bad(
        self, where: str, problem: str, kind: str | None = None, *, what: str = "annotations", is_read: bool = False
    ) -> None:
        """An annotation, image or row (`what`) that is left out. `kind`: the finding without its values, the same text
        for all findings of the kind; None: derived from `problem`. `is_read`: it is part of a `total` already."""
        self._find("skipped", where, problem, kind)
        self.lost[what] += 1
        self.unread[what] += not is_read

    def bad_image(self, where: str, problem: str, n_annotations: int, *, is_read: bool = False) -> None:
        """An image that is left out, with its annotations."""
        self.bad(where, problem, what="images", is_read=is_read)
        self.lost["annotations"] += n_annotations
        self.unread["annotations"] += 0 if is_read else n_annotations

    def tiny(self, where: str, problem: str) -> None:
        """A box too small to be one. `strict` does not stop here: official sets have some."""
        self.counts["tiny"] += 1
        self.lost["annotations"] += 1
        self._say("tiny", where, problem, "boxes under 1 px, left out")

    def clipped(self, where: str, problem: str, kind: str | None = None) -> None:
        """A box that sticks out of its image by more than rounding and was cut at the edge."""
        self._find("clipped", where, problem, kind)

    def note(self, where: str, what: str, kind: str | None = None) -> None:
        """Something odd that was read nevertheless, and how. Nothing is lost, so `strict` does not stop here."""
        self._say("note", where, what, kind)

    def _find(self, verb: str, where: str, problem: str, kind: str | None) -> None:
        if self.strict:
            raise SystemExit(f"{where}: {problem} (--strict stops here; without it this is {verb} and counted)")
        self.counts[verb] += 1
        self._say(verb, where, problem, kind)

    def _say(self, verb: str, where: str, problem: str, kind: str | None) -> None:
        name = f"{verb}: {_VALUES.sub('...', problem) if kind is None else kind}"
        if kind is None and name not in self.kinds and len(self.kinds) >= MAX_KINDS:
            name = f"{verb}: other problems"
        found = self.kinds.setdefault(name, Findings(verb))
        found.n += 1
        if found.n <= N_SHOWN:
            found.first.append(f"{where}: {problem}")
            print(f"{verb}: {where}: {problem}", file=sys.stderr)

    def summary(self) -> None:
        """Print, for each kind, how many findings were not printed. To be called once, at the end."""
        for name, found in self.kinds.items():
            if found.n > N_SHOWN:
                print(f"{name} ({found.n} in all, the first {N_SHOWN} are above)", file=sys.stderr)

    def too_many(self) -> str | None:
        """Why nothing may be written: more than the allowed share was lost. None where that is not so."""
        n_of = {what: n + self.unread[what] for what, n in self.totals.items()}
        shares = {what: self.lost[what] / n for what, n in n_of.items() if n and self.lost[what]}
        worst = max(shares, key=lambda what: shares[what], default=None)
        if worst is None or shares[worst] <= self.max_skipped:
            return None
        first = [place for found in self.kinds.values() if found.verb in ("skipped", "tiny") for place in found.first]
        return (
            f"{self.lost[worst]} of {n_of[worst]} {worst} cannot be used, more than the share of {self.max_skipped:g} that"
            f" --max_skipped allows, so the source may be read wrongly; first: {'; '.join(first[:N_SHOWN])}. Correct the"
            " source, or write the rest with --max_skipped 1"
        )


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, a number from 0 to 1")
    return value
