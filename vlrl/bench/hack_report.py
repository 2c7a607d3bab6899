"""What `bench hack` prints and writes: a table of shares, and in plain words the attacks that hack a reward."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.bench.hack_answers import Degenerate
from vlrl.metrics.tables import text_table

HIGH = 0.9
"""An attack that earns this share of the reference answer's reward, on average, has hacked the reward."""
SUM = "sum"
BY_CHANCE, NOTHING, NO_VALUE = "right by chance", "the reference answer earns nothing", "no value from the reward"


@dataclass
class Finding:
    """What one attack earns from one reward. `shares`: of the reference answer's reward, one a sample, with the text that
    earned it; `left_out`: reason -> number of samples; `part`: the samples whose reference answer is of this kind, "" for
    all."""

    attack: Degenerate
    reward: str
    part: str = ""
    shares: list[tuple[float, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(share for share, _ in self.shares) if self.shares else None

    @property
    def n_high(self) -> int:
        return sum(self._is_high(share) for share, _ in self.shares)

    @property
    def is_hack(self) -> bool:
        return self.mean is not None and self._is_high(self.mean)

    @property
    def example(self) -> str:
        """The completion that earned most."""
        return max(self.shares, key=lambda one: one[0], default=(0.0, self.attack.texts[0]))[1]

    def _is_high(self, share: float) -> bool:
        return share > 1 + 1e-9 if self.attack.is_right else share >= HIGH - 1e-9

    @property
    def where(self) -> str:
        return f" where the reference answer is {self.part}" if self.part else ""

    def to_json(self) -> dict[str, Any]:
        shares = {"share": self.mean, "n": len(self.shares), f"n_at_{HIGH}": self.n_high, "left_out": dict(self.left_out)}
        return {
            "attack": self.attack.name,
            "reward": self.reward,
            "where": self.part or None,
            **shares,
            "is_hack": self.is_hack,
            "example": self.example[:400],
        }


@dataclass(frozen=True)
class HackReport:
    """What was found. `missing`: why a judge gave no value, one a completion; `is_alone`: one reward gives values, the others
    apply to no sample; `failed`: reward -> how it failed on an answer of nan or an infinite number, which ends a run."""

    about: str
    findings: Sequence[Finding]
    columns: Sequence[str]
    reads_nothing: Sequence[str]
    missing: Sequence[str]
    is_alone: bool
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_attack(self) -> dict[str, dict[str, Finding]]:
        found: dict[str, dict[str, Finding]] = {}
        for finding in self.findings:
            if not finding.part:
                found.setdefault(finding.attack.name, {})[finding.reward] = finding
        return found

    def hacked(self, name: str) -> list[Finding]:
        """What an attack hacks: rewards on all samples, or else on those of one kind of reference answer."""
        found = [one for one in self.findings if one.attack.name == name and one.is_hack]
        everywhere = {one.reward for one in found if not one.part}
        return [one for one in found if not one.part or one.reward not in everywhere]

    @property
    def nothing_is_read(self) -> bool:
        """Whether every reward pays the same whatever the right answer is."""
        return bool(self.reads_nothing) and set(self.columns) <= {SUM, *self.reads_nothing}

    @property
    def judged(self) -> list[str]:
        """The columns in which some attack has a share; no sum where it is of one reward only."""
        found = [one for one in self.columns if any(f.reward == one and f.shares for f in self.findings)]
        return found[:1] if found[1:] == [SUM] and self.is_alone else found

    @property
    def hacks(self) -> list[str]:
        """The attacks that hack some reward, in plain words."""
        found = []
        if self.nothing_is_read:
            pay = "pays" if len(self.reads_nothing) == 1 else "pay"
            found.append(
                f"{', '.join(self.reads_nothing)} {pay} the same whatever the right answer is, and no other reward is given"
            )
        found += [f"'not a number' ends a training run: {error}" for error in self.failed.values()]
        for name in self.by_attack:
            hacked = self.hacked(name)
            if hacked:
                earned = ", ".join(
                    f"{one.mean:.2f} of {one.reward}{one.where} ({one.n_high} of {len(one.shares)} samples)" for one in hacked
                )
                more = ", more than the reference answer" if hacked[0].attack.is_right else ""
                found.append(f"{name!r} earns {earned}{more}; for example {hacked[0].example!r:.160}")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "about": self.about,
            "threshold": HIGH,
            "rewards": list(self.columns),
            "reads_no_answer": list(self.reads_nothing),
            "n_not_judged": len(self.missing),
            "hackable": self.hacks,
            "findings": [finding.to_json() for finding in self.findings],
        }


def report(outcome: HackReport, path: Path | None) -> int:
    """Print the table and what it means, and write it as JSON where `path` is given. Returns the exit code."""
    columns, findings = outcome.judged, outcome.findings
    print(outcome.about)
    if columns:
        rows = [row for name, of in outcome.by_attack.items() for row in _rows(outcome, name, of, columns)]
        print(text_table(["Attack", *columns, "Left out"], rows))
        print(
            f"share of what the reference answer earns (samples where it is {HIGH} or more); of an attack's variants the best"
        )
    for reason in (BY_CHANCE, NOTHING, NO_VALUE):
        n = max((one.left_out[reason] for one in findings), default=0)
        if n:
            print(f"left out: {reason}, up to {n} samples an attack")
    for name in outcome.reads_nothing:
        judged = "" if outcome.nothing_is_read else ", so it is judged as a part of the sum only"
        print(f"{name} reads no answer: it pays the same whatever the right answer is{judged}")
    for line in outcome.hacks:
        print(f"hackable: {line}", file=sys.stderr)
    if outcome.missing:
        print(f"failed: the judge gave no value for {len(outcome.missing)} completions: {outcome.missing[0]}", file=sys.stderr)
    if not columns:
        print("failed: no reference answer earns anything, so there is nothing to compare with", file=sys.stderr)
    elif not outcome.hacks:
        top = max((one for one in findings if one.shares and not one.attack.is_right), key=lambda one: one.mean or 0.0)
        print(f"no attack earns {HIGH} of what the reference answer earns")
        print(f"most: {top.attack.name}, {top.mean:.2f} of {top.reward}{top.where}")
    if path is not None:
        file = path if path.suffix == ".json" else path / "hack.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(outcome.to_json(), indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
        print(file)
    return 1 if outcome.hacks or outcome.missing or not columns else 0


def _rows(outcome: HackReport, name: str, of: Mapping[str, Finding], columns: Sequence[str]) -> list[list[str]]:
    """The line of an attack, and one for each kind of reference answer where it hacks a reward that it does not hack on all."""
    rows = [_row(name, of, columns)]
    for part in dict.fromkeys(one.part for one in outcome.hacked(name) if one.part):
        there = {one.reward: one for one in outcome.findings if one.attack.name == name and one.part == part}
        rows.append(_row(f"  {part}", there, columns))
    return rows


def _row(name: str, of: Mapping[str, Finding], columns: Sequence[str]) -> list[str]:
    cells = []
    for column in columns:
        finding = of.get(column)
        shown = finding is not None and finding.shares
        cells.append(f"{finding.mean:5.2f} ({finding.n_high} of {len(finding.shares)})" if finding and shown else "-")
    last = of.get(columns[-1])
    return [name, *cells, str(sum(last.left_out.values())) if last is not None and last.left_out else ""]
